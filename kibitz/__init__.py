"""The app on top: command line, the chain from games to SHIFT, reports."""
