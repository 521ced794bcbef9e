"""One module per engine, each with `build(collection, folder, **settings)` and `load(collection, folder)`.

`load` returns a function that takes a query's number and search settings, and returns the numbers of the
best documents. A module with `BOUND_TO_ONE_THREAD = True` isn't searched by several callers at once.
"""
