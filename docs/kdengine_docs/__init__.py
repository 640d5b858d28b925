"""What builds this site, and what tests its pages: the Sphinx extension ``kdengine_docs.site`` and its parts."""
