"""Zip files and tars as folders, whose files are read where they lie and never unpacked.

An archive is indexed once, from its headers; then each member is read by its place. Nothing in an
archive is trusted: names must stay inside, and places and sizes are checked against the archive.

    paths      archives as folders, for sources that list files
    members    the place of each file, and its bytes
    indexes    the index of an archive, kept for the next call
    tars, zips headers, from which an index is made
    ranges     bytes of a file on this machine or behind a URL
"""
