"""`rbnn report`: what a sweep found, as one interactive page that needs no network, as a picture,
and as a table.
"""
