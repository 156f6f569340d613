"""The demonstration: profiles of text and CSV files, merged into one report.

The profiles and the report are plain functions of files, standard library only.
"""
