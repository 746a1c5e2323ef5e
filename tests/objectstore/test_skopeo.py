"""skopeo, as on a file system, with content that comes from the store by redirects.

Not its list of no tags: with its last manifest a repository is gone from a bucket, which has no empty folders.
"""

from tests.clients.test_skopeo import (  # noqa: F401
    at_private,
    at_public,
    test_a_multi_platform_image_comes_back_whole,
    test_a_public_image_goes_out_without_a_login_and_in_with_one,
    test_an_image_comes_back_as_it_went,
    test_nothing_goes_without_a_login,
)
