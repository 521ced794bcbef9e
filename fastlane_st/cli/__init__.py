"""The command line: parses, calls the library, prints."""

from .main import main as main
from .main import parse_routes as parse_routes
