"""From a file system into a bucket and back, all of it, with large contents."""

from pathlib import Path

import pytest

from tests.objectstore.conftest import Serve
from tests.server.content import Repository
from tests.server.live import serving
from tests.server.test_backup import assert_there, fill
from tests.server.test_migrate import migrate


@pytest.mark.usefixtures("where_the_store_is")
def test_it_moves_into_a_bucket_and_back(serve: Serve, tmp_path: Path) -> None:
    with serving(tmp_path / "old") as old:
        made = fill(Repository(old.client(), "team/app"))
        bucket = serve(start=False)
        result = migrate(old, bucket)
        assert result.exit_code == 0, result.output
        old.stop()
    bucket.start()
    app = Repository(bucket.client(), "team/app")
    assert_there(app, made)
    newest = app.push_image("newest")
    with serving(tmp_path / "back", start=False) as back:
        result = migrate(bucket, back)
        assert result.exit_code == 0, result.output
        back.start()
        again = Repository(back.client(), "team/app")
        assert_there(again, made)
        assert again.get_manifest("newest").content == newest
