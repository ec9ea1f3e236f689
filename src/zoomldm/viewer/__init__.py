"""The web viewer: slides and archives in a browser, original beside regenerated.

Needs the extra `viewer`; see docs/viewer.md.
"""
