# The verbs that start, reach, look at and stop a cluster, from outside its namespaces.
# shellcheck shell=bash
# shellcheck disable=SC2154 # settings come from ../cluster

# with_lock NAME SECONDS COMMAND…: one at a time.
with_lock() {
  local file=$home/$1.lock seconds=$2 lock
  shift 2
  mkdir -p "$home"
  exec {lock}>"$file"
  flock --wait "$seconds" "$lock" || die "another 'cluster' command has held $file for $seconds s"
  local held_lock=$lock # the node's processes must not inherit it
  "$@"
  exec {lock}>&-
}

alive() { runs_still init node-init; }

# runs_still NAME WORD: whether the process of NAME.pid is still the one that was started, by a WORD of its command line.
runs_still() {
  local process
  process=$(cat "$run/$1.pid" 2>/dev/null) && [ -n "$process" ] && tr '\0' ' ' 2>/dev/null <"/proc/$process/cmdline" | grep -q "$2"
}

up() { # [--control-plane [PLUGIN…]]
  [ "$(id -u)" = 0 ] || die "up: needs root (namespaces, mounts, cgroups)"
  case ${1:-} in '' | --control-plane) ;; *) die "up: unknown option '$1'" ;; esac
  if alive && [ -e "$run/ready" ]; then
    say "'$name' is up already"
    return
  fi
  [ ! -e "$run" ] || { say "removing what is left of an earlier '$name'"; down; }
  local parts=()
  [ $# = 0 ] || parts=(kube-apiserver etcd kubectl)
  build "${parts[@]}"
  local tool missing=()
  for tool in runc ip nft conntrack openssl nsenter unshare; do command -v $tool >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} = 0 ] || die "up: ${missing[*]} missing: run 'cluster install'"
  mkdir -p "$logs" "$run/kubelet"
  trap give_up EXIT
  trap 'exit 130' INT TERM
  local began=$SECONDS outer
  setsid unshare --mount --net --pid --fork --kill-child=KILL --mount-proc "$here/cluster" node-init "$@" \
    >"$logs/node-init.log" 2>&1 </dev/null {held_lock}>&- &
  outer=$!
  wait_until 10 "the node's first process" eval "pgrep -P $outer >'$run/init.pid'"
  show_progress $((began + 300))
  trap - EXIT INT TERM
  say "'$name' is up after $((SECONDS - began)) s"
}

show_progress() { # deadline
  local shown=0 lines
  while :; do
    mapfile -t -s $shown lines < <(cat "$run/progress" 2>/dev/null)
    [ ${#lines[@]} = 0 ] || printf 'cluster: %s\n' "${lines[@]}"
    shown=$((shown + ${#lines[@]}))
    [ ! -e "$run/ready" ] || return 0
    alive || { tail -n 10 "$logs/node-init.log" >&2; die "the node could not be started"; }
    [ "$SECONDS" -lt "$1" ] || { tail -n 10 "$logs/node-init.log" >&2; die "the node was not ready in 300 s"; }
    sleep 0.2
  done
}

# `up` failed or was interrupted: keep what tells why, leave nothing running.
give_up() {
  rm -rf "$home/failed-$name"
  cp -r "$logs" "$home/failed-$name"
  echo "cluster: its logs: $home/failed-$name" >&2
  down
}

# Packets that nobody in the node wants go out as this machine's own connections: its network stays as it is.
internet() {
  alive || die "internet: no cluster called '$name' is up: cluster up"
  if runs_still slirp slirp4netns; then return; fi
  command -v slirp4netns >/dev/null || die "internet: slirp4netns is missing: run 'cluster install'"
  setsid slirp4netns --configure --mtu=65520 --disable-host-loopback --disable-dns --cidr="$way_out" "$(cat "$run/init.pid")" internet0 \
    >"$logs/slirp4netns.log" 2>&1 </dev/null {held_lock}>&- &
  echo $! >"$run/slirp.pid"
  wait_until 10 "the node's default route (see $logs/slirp4netns.log)" eval '(in_node ip route get 1.1.1.1)'
  echo 'table ip internet { chain out { type nat hook postrouting priority srcnat; oifname "internet0" masquerade; }; }' |
    (in_node nft -f -) || die "internet: the node's nftables refused the rule"
}

down() {
  if runs_still slirp slirp4netns; then kill "$(cat "$run/slirp.pid")"; fi
  if alive; then kill -KILL "$(cat "$run/init.pid")"; fi
  wait_until 20 "the end of the node's processes" eval '! alive'
  local hierarchy
  for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ ! -d "$hierarchy$cgroup" ] || wait_until 20 "$hierarchy$cgroup emptied" remove_cgroup "$hierarchy$cgroup"
  done
  rm -rf "$run"
}

remove_cgroup() {
  find "$1" -depth -type d -exec rmdir {} +
}

in_node() { # command…: in the node's namespaces and the caller's directory
  alive || die "exec: no cluster called '$name' is up: cluster up"
  [ $# -gt 0 ] || die "exec: needs a COMMAND"
  # shellcheck disable=SC2016 # expanded by the inner shell
  exec nsenter -t "$(cat "$run/init.pid")" --mount --net --pid \
    env PATH="$PATH" KUBECONFIG="$KUBECONFIG" DOT_CLUSTER="$name" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

load() { # archive…
  local archive output
  [ $# -gt 0 ] || die "load: needs an ARCHIVE"
  for archive in "$@"; do
    [ -r "$archive" ] || die "load: $archive cannot be read"
    output=$(in_node timeout 120 ctr -n k8s.io images import "$(realpath "$archive")" 2>&1) || die "load: $archive: $output"
  done
}

status() {
  if ! alive || [ ! -e "$run/ready" ]; then
    say "'$name' is not up"
    return 3
  fi
  say "'$name' is up: Kubernetes $(kubernetes_version), kubeconfig $KUBECONFIG (works inside 'cluster exec')"
  [ ! -s "$run/ended" ] || say "ended since: $(tr '\n' ' ' <"$run/ended")"
  (in_node timeout 10 kubectl get nodes,pods --all-namespaces -o wide) || say "kube-apiserver does not answer"
}

collect_logs() { # directory
  [ $# = 1 ] || die "logs: needs a DIRECTORY"
  mkdir -p "$1"
  [ -d "$run" ] || die "logs: no cluster called '$name' has been started"
  cp -r "$logs/." "$1/"
  [ ! -d "$run/pod-logs" ] || cp -rL "$run/pod-logs" "$1/pods"
  alive || return 0
  (in_node timeout 20 kubectl get events --all-namespaces --sort-by=.lastTimestamp) >"$1/events.txt" 2>&1 || true
  (in_node timeout 20 kubectl describe pods --all-namespaces) >"$1/describe-pods.txt" 2>&1 || true
  (in_node timeout 20 kubectl get all,mutatingwebhookconfigurations --all-namespaces -o yaml) >"$1/objects.yaml" 2>&1 || true
}
