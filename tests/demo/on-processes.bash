# The demo on a machine without Docker or kind: Kubernetes as plain processes.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # settings are shared with ./demo

export DOT_CLUSTER=demo
cluster=$top/tests/cluster/cluster
injector_image=dot-sidecar.local/dot-injector:test
proxy_image=dot-sidecar.local/dot-proxy:test
pod_image=dot-sidecar.local/app:test
pull_policy=Never

node() { "$cluster" exec "$@"; }
k() { node kubectl "$@"; }
h() { node helm "$@"; }

cluster_check() {
  [ "$(uname)" = Linux ] || fail "without Docker and kind the demo needs Linux; install both (kind.sigs.k8s.io), then make demo again"
  [ "$(id -u)" = 0 ] || fail "without Docker and kind the demo needs root, to make namespaces: sudo make demo"
  local tool
  for tool in go cargo runc buildah unbound tcpdump dig kdig; do
    command -v $tool >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null || fail "$tool is missing: make install"
  done
}

cluster_describe() { echo "Kubernetes as plain processes, in namespaces of their own (there is no Docker with kind here)"; }
cluster_hint() { echo "DOT_CLUSTER=demo tests/cluster/cluster exec kubectl get pods --all-namespaces"; }

cluster_up() {
  detail "the first time its programs are compiled, which takes minutes"
  timeout 3600 "$cluster" up </dev/null | sed 's/^cluster: /   /'
}

cluster_down() {
  "$cluster" down
}

# A TCP connection alone proves nothing: a firewall may answer for everyone. The proxy asks, and believes authenticated answers only.
asks_over_tls() { # preset
  timeout 10 "$cache/target/$(uname -m)-unknown-linux-gnu/release/dot-proxy" query --upstream "$1" "$public_name" </dev/null >"$state/probe.log" 2>&1
}

way_out() { "$cluster" internet; }

images() {
  timeout 3600 make -C "$top" --no-print-directory images.test </dev/null >"$state/images.log" 2>&1 & local building=$! ticks=0
  while kill -0 $building 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    [ $((ticks % 30)) != 0 ] || detail "still compiling after $ticks s: $(tail -n 1 "$state/images.log")"
  done
  wait $building || { tail -n 20 "$state/images.log"; fail "the images could not be built: $state/images.log"; }
  "$cluster" load "$cache"/images/{dot-proxy,dot-injector,app}.tar
  detail "$proxy_image and $injector_image are on the node"
}
