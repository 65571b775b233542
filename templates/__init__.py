"""The pages' templates and style sheet, installed as the package ``xots.templates``."""
