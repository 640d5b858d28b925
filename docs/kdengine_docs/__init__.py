"""What builds this site, and what tests its pages: a Sphinx extension (:mod:`kdengine_docs.site`), and the parts that it stands on."""
