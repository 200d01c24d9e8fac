"""Rules without I/O: settings, errors, signatures, strict JSON, redaction, templates.

Imports nothing else of this package.
"""
