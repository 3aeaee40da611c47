# The demo on a machine with Docker and kind.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # settings are shared with ./demo

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")
injector_image=dot-injector:$version
proxy_image=dot-proxy:$version
pod_image=dot-sidecar-demo-tools:$version
pull_policy=Never
tools=dot-sidecar-demo-tools # a container in the node's network, with unbound and tcpdump

node() { docker exec -i $tools "$@"; }
k() { kubectl --context kind-dot-sidecar "$@"; }
h() { helm --kube-context kind-dot-sidecar "$@"; }

cluster_check() {
  local tool
  for tool in kubectl helm; do command -v $tool >/dev/null || fail "$tool is missing; with kind the demo needs kubectl and helm beside it"; done
}

cluster_describe() { echo "kind's, called dot-sidecar"; }
cluster_hint() { echo "kubectl --context kind-dot-sidecar get pods --all-namespaces"; }

cluster_up() {
  if kind get clusters 2>/dev/null | grep -qx dot-sidecar; then
    detail "it is up already"
  else
    timeout 900 make -C "$top" --no-print-directory kind-up </dev/null
    touch "$state/cluster-is-ours"
  fi
}

# A cluster that was there before the demo stays, without what the demo put into it.
cluster_down() {
  docker rm --force $tools >/dev/null 2>&1 || true
  if [ -e "$state/cluster-is-ours" ]; then
    kind delete cluster --name dot-sidecar
  elif kind get clusters 2>/dev/null | grep -qx dot-sidecar; then
    k delete namespace "$namespace" --ignore-not-found --timeout=120s
    h uninstall "$release" --namespace "$release" --ignore-not-found --wait --timeout 120s
    k delete namespace "$release" --ignore-not-found --timeout=120s
  fi
}

asks_over_tls() { # preset
  timeout 20 docker run --rm --network container:dot-sidecar-control-plane "$proxy_image" query --upstream "$1" "$public_name" </dev/null >"$state/probe.log" 2>&1
}

way_out() { :; } # kind's nodes have one

images() {
  timeout 3600 make -C "$top" --no-print-directory images </dev/null
  timeout 900 docker build --quiet --tag "$pod_image" --file "$here/Dockerfile.tools" "$here" </dev/null >/dev/null
  timeout 600 kind load docker-image --name dot-sidecar "$proxy_image" "$injector_image" "$pod_image"
  docker rm --force $tools >/dev/null 2>&1 || true
  docker run --detach --name $tools --privileged --user 0 --network container:dot-sidecar-control-plane --volume "$state:$state" \
    "$pod_image" sleep infinity >/dev/null
  detail "$proxy_image and $injector_image are on the node"
}
