"""What makes parts of the project: pages, type files, models. No part of the package that is installed."""
