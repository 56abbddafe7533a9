"""The asset graph, one module per group; an asset body reads, calls the library and reports."""
