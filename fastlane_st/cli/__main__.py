"""Lets `python -m fastlane_st.cli` run the command line."""

import sys

from .main import main

sys.exit(main())
