#!/bin/sh
# Draws both dashboards from a running Prometheus:
#   PROMETHEUS=http://127.0.0.1:9090 OUT=/tmp/pictures dashboards/preview/draw.sh
# SPAN is the time range in seconds, JOB and NODES choose. It has to have the recording rules. WIDTHS: a picture for each; those that
# are not 1600 pixels wide have it in their name.
set -eu
cd "$(dirname "$0")"
: "${PROMETHEUS:?where Prometheus answers}" "${OUT:?where the pictures go}"
SPAN=${SPAN:-900} JOB=${JOB:-natwatch} NODES=${NODES:-node-1 node-2 node-3} WIDTHS=${WIDTHS:-1600} PORT=${PORT:-19600}
WORK=${WORK:-/tmp/natwatch-dashboards-preview}
mkdir -p "$WORK" "$OUT"
cp package.json preview.tsx serve.mjs "$WORK"
dashboards=$(cd .. && pwd)
cd "$WORK"
[ -d node_modules/@grafana/ui ] || npm install --no-audit --no-fund
npx esbuild preview.tsx --bundle --outfile=bundle.js --log-level=warning --loader:.svg=dataurl --loader:.ttf=dataurl \
	'--define:process.env.NODE_ENV="production"'

browse() {
	chromium --headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars \
		--user-data-dir="$WORK/profile" --virtual-time-budget=10000 "$@" 2>/dev/null
}

# draw NAME PICTURE NODE: as wide as $width
draw() {
	picture=$2
	[ "$width" = 1600 ] || picture=$2-$width
	node serve.mjs "$PORT" "$PROMETHEUS" "$dashboards/$1.json" &
	server=$!
	trap 'kill $server' EXIT
	until curl -sf "http://127.0.0.1:$PORT/" >/dev/null; do sleep 0.2; done
	url="http://127.0.0.1:$PORT/?span=$SPAN&rate=30&var-job=$JOB&var-instance=$3"
	# The page's title is a report: how high it is, and what each panel got.
	report=$(browse --window-size="$width,1200" --dump-dom "$url" | sed -n 's:.*<title>\(.*\)</title>.*:\1:p')
	height=$(echo "$report" | sed -n 's/.*"bottom":\([0-9]*\).*/\1/p')
	echo "$picture: $report" | tee "$OUT/$picture.txt"
	browse --window-size="$width,$height" --screenshot="$OUT/$picture.png" "$url"
	kill $server
	trap - EXIT
	case $report in *'"error":"'[!\"]*) echo "$picture: a panel failed" >&2; exit 1 ;; esac
}

for width in $WIDTHS; do
	draw natwatch-fleet fleet '.*'
	for node in $NODES; do draw natwatch-node "$node" "$node"; done
done
