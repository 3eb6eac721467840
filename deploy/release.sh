#!/bin/bash
# release.sh IMAGE: release IMAGE on Cloud Run, as cloudbuild.yaml does and as a person can:
#   1. rehearse: IMAGE runs on the rehearsal service with data of its own, and a stream, a view and a
#      batch run are tried on it. Nothing of the real service is touched.
#   2. deploy:   a revision of the real service without traffic. It takes over the log as it starts;
#      the one that serves refuses writes from then on, so the rest has to be quick.
#   3. smoke:    the new revision is ready, has lost nothing, and every view runs.
#   4. shift:    it gets all traffic.
# When 2 to 4 fail, the image that served before is deployed again and gets the traffic.
#
# Variables: REGION, SERVICE, BUCKET; REHEARSAL, JOB and REPLICA where they exist; ACCOUNT, whose ID
# token calls the services (default: whoever is logged in). needs: gcloud, curl, python3.
# exit: 0 released, 1 not released and the old image serves, 2 usage, 3 the way back failed as well.
set -euo pipefail
[ $# = 1 ] && [ -n "${REGION:-}" ] && [ -n "${SERVICE:-}" ] && [ -n "${BUCKET:-}" ] || {
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
image=$1
here=$(cd "$(dirname "$0")" && pwd)
say() { echo "release: $*" >&2; }
run() { gcloud run "$@" --region="$REGION" --quiet; }
url_of() { run services describe "$1" --format='value(status.url)'; }
token() {
  if [ -n "${ACCOUNT:-}" ]; then
    gcloud auth print-identity-token --impersonate-service-account="$ACCOUNT" --audiences="$1" --include-email
  else
    gcloud auth print-identity-token
  fi
}

if [ -n "${REHEARSAL:-}" ]; then
  say "rehearsing $image on $REHEARSAL"
  data=gs://$BUCKET/rehearsals/$(date -u +%Y%m%dT%H%M%SZ)-$$
  run deploy "$REHEARSAL" --image="$image" --args="start,--data,$data"
  url=$(url_of "$REHEARSAL")
  TOKEN=$(token "$url") "$here/smoke.sh" rehearse "$url"
fi

before=$(run services describe "$SERVICE" --format='value(spec.template.spec.containers[0].image)')
url=$(url_of "$SERVICE")
id_token=$(token "$url")
lsn=$(TOKEN=$id_token "$here/smoke.sh" lsn "$url" || echo 0)

go_back() {
  say "not released; deploying $before again"
  # A new revision and not the old one: an instance of the old one that still lives has lost the log.
  run deploy "$SERVICE" --image="$before" --no-traffic &&
    run services update-traffic "$SERVICE" --to-latest --remove-tags=candidate || {
    say "the way back failed: deploy $before by hand, as 'Rollback' in deploy/README.md says"
    exit 3
  }
  exit 1
}
say "deploying $image to $SERVICE without traffic"
run deploy "$SERVICE" --image="$image" --no-traffic --tag=candidate || go_back
candidate=$(run services describe "$SERVICE" --format=json |
  python3 -c 'import json, sys
print(next(t["url"] for t in json.load(sys.stdin)["status"]["traffic"] if t.get("tag") == "candidate"))') || go_back
TOKEN=$id_token "$here/smoke.sh" check "$candidate" "$lsn" || go_back
# To the latest, and not to this revision by name: later changes by Terraform must get traffic too.
run services update-traffic "$SERVICE" --to-latest --remove-tags=candidate || go_back
TOKEN=$id_token "$here/smoke.sh" check "$url" "$lsn" || go_back
say "$image serves"

# What only reads comes last; it can be of another version for a moment.
[ -z "${REPLICA:-}" ] || run deploy "$REPLICA" --image="$image"
[ -z "${JOB:-}" ] || run jobs update "$JOB" --image="$image"
