"""`rbnn report`: what a sweep found, as one interactive page that needs no network, as a picture,
and as a table.
"""

import logging

# It warns of a cache folder that it cannot make, and does without.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
