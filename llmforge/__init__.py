__version__ = "0.1.0"
__distribution__ = "llmforge-lab"  # what pip installs; `lib_name` in settings.ini
