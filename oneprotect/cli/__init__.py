"""Command line: `app` is the root, `commands` parse options, `views` write output, `support` is shared by both."""
