"""Check Cloud Build configuration files offline, with the parser and the API messages of the
installed gcloud (no account, no network). Run it with a Python that gcloud runs on.
needs: gcloud on the PATH. exit: 0 all parse, 1 a file does not, 2 usage, 77 no gcloud."""
import os
import shutil
import sys
import warnings

warnings.filterwarnings('ignore')
if len(sys.argv) < 2:
    print('usage: cloudbuild.py FILE...', file=sys.stderr)
    sys.exit(2)
gcloud = shutil.which('gcloud')
lib = gcloud and os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(gcloud))), 'lib')
if not lib or not os.path.isdir(os.path.join(lib, 'googlecloudsdk')):
    print('gcloud is not installed', file=sys.stderr)
    sys.exit(77)
sys.path[:0] = [lib, os.path.join(lib, 'third_party')]
from googlecloudsdk.api_lib.cloudbuild import config  # noqa: E402
from googlecloudsdk.generated_clients.apis.cloudbuild.v1 import cloudbuild_v1_messages as messages  # noqa: E402

failed = 0
for path in sys.argv[1:]:
    try:
        build = config.LoadCloudbuildConfigFromPath(path, messages, params={})
        print('ok    %s (steps: %s)' % (path, ', '.join(s.id or s.name for s in build.steps)))
    except Exception as e:  # the parser raises many kinds; each one means that the file is refused
        failed += 1
        print('FAIL  %s: %s' % (path, ' '.join(str(e).split())[:300]))
print('%d passed, %d failed' % (len(sys.argv) - 1 - failed, failed))
sys.exit(failed > 0)
