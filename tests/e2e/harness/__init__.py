"""What end-to-end tests are made of, in whichever cluster they run.

    product.py     the images and the chart, built once, and a release of them in the cluster
    namespaces.py  namespaces that enforce pod security `restricted`, and pods for them
    registries.py  a Registry that is applied, awaited and used, from this machine and from pods
    tunnel.py      how clients on this machine reach it by its name in the cluster
    load.py        clients that push and pull all the time and say which request failed, and why

The fixtures that hand them out are in `tests/e2e/conftest.py`.
"""
