"""What the commands share: options, encoding, results and the environment they were measured in."""
