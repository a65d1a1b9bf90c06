"""HTTP to servers of this machine.

Each httpx client would read the system's certificates, which takes longer than most tests; so all share a context
that has none.
"""

import ssl
from functools import partial

import httpx2

NOTHING_TO_VERIFY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

get = partial(httpx2.get, verify=NOTHING_TO_VERIFY, trust_env=False)
post = partial(httpx2.post, verify=NOTHING_TO_VERIFY, trust_env=False)
request = partial(httpx2.request, verify=NOTHING_TO_VERIFY, trust_env=False)
Client = partial(httpx2.Client, verify=NOTHING_TO_VERIFY, trust_env=False)
AsyncClient = partial(httpx2.AsyncClient, verify=NOTHING_TO_VERIFY, trust_env=False)
