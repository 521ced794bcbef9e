"""An index on the disk: the commit protocol, the manifest, and the files of a segment."""
