"""distribution's layout in a bucket, by obstore: S3, Google Cloud Storage and Azure Blob Storage.

    ObjectStorage (storage.py) ─► ObjectUpload (upload.py)      the storage contract
        ├─► BucketTrash, BucketAside (trash.py)             contents on their way out, our own files
        └─► Bucket (bucket.py)                                  keys and bytes, faults, the breaker
                └─► obstore, opened by connect.py               credentials, retries, timeouts

No process with a tokio runtime may fork, and obstore starts one with its first request: only workers use this.
"""
