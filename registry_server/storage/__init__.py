"""Where content lies: blobs by digest, uploads in progress, and the small files that metadata is made of."""
