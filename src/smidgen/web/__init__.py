"""The page on which a network recognises pictures: served from here, or written as a site that needs no server."""
