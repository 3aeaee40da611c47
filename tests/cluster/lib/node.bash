# The node: this runs as PID 1 of its own mount, network and PID namespaces, so that killing it removes everything.
# shellcheck shell=bash
# shellcheck disable=SC2154 # settings come from ../cluster

declare -A started=()

start() { # name command…: in the background, its output in a log of its own
  local process=$1
  shift
  setsid "$@" >"$logs/$process.log" 2>&1 </dev/null &
  started[$process]=$!
}

# Waiting is pointless once one of the processes has ended.
still_possible() {
  local process
  for process in "${!started[@]}"; do
    kill -0 "${started[$process]}" 2>/dev/null && continue
    tail -n 5 "$logs/$process.log"
    die "$process ended; its last lines are above"
  done
}

progress() { echo "$*" >>"$run/progress"; }

node_init() { # [--control-plane [PLUGIN…]]
  local plugin plugins=NodeRestriction
  for plugin in "${@:2}"; do plugins+=,$plugin; done
  private_files
  private_network
  make_keys
  start_control_plane "$plugins"
  progress "kube-apiserver $(kubernetes_version) answers"
  if [ "${1:-}" != --control-plane ]; then
    start_node
    progress "node is Ready"
    start_cluster_dns
    progress "CoreDNS answers on $dns_ip"
  fi
  touch "$run/ready"
  watch_processes
}

# What the node writes outside its own folder goes to memory, and with it when it ends.
private_files() {
  mount --make-rshared /
  mkdir -p "$run/home" && mount --bind "$home" "$run/home"
  mount -t tmpfs tmpfs /run
  mkdir -p /run/netns /run/lock
  local directory layer
  for directory in /var/lib /var/log; do # of the kubelet's and libcni's paths some cannot be set
    layer=/run/layers$directory
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" overlay $directory
  done
  case $home/ in /var/lib/* | /var/log/* | /run/*) mkdir -p "$home" && mount --bind "$run/home" "$home" ;; esac
  mount --bind "$run/kubelet" "$run/kubelet"
  mount --make-shared "$run/kubelet"
  make_cgroup
}

# The node's containers live below a cgroup of its own, in each hierarchy of version 1 or in the one of version 2.
make_cgroup() {
  local hierarchy
  if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    for hierarchy in /sys/fs/cgroup/*/; do
      [ ! -e "$hierarchy/cgroup.procs" ] || mkdir -p "$hierarchy/$cgroup"
    done
    return
  fi
  mkdir -p "/sys/fs/cgroup$cgroup"
  local enable
  enable=$(sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers)
  if ! echo "$enable" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control; then
    # Inside a container the topmost cgroup holds processes, and then may not hand its controllers down: move them aside.
    mkdir -p /sys/fs/cgroup/init
    local process
    while read -r process; do
      echo "$process" 2>/dev/null >/sys/fs/cgroup/init/cgroup.procs || true
    done </sys/fs/cgroup/cgroup.procs
    echo "$enable" >/sys/fs/cgroup/cgroup.subtree_control || die "cgroup controllers cannot be handed down on this machine"
  fi
  echo "$enable" >"/sys/fs/cgroup$cgroup/cgroup.subtree_control"
}

private_network() {
  # Not every kernel has dummy devices: an empty bridge carries the node's address and the route to the services.
  ip link set lo up
  ip link add node0 type bridge
  ip address add "$node_ip/24" dev node0
  ip link set node0 up
  ip route add "$services" dev node0 src "$node_ip"
  sysctl -qw net.ipv4.ip_forward=1
}

start_control_plane() { # admission plugins
  local etcd=http://127.0.0.1:2379
  start etcd etcd --data-dir "$run/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls $etcd --advertise-client-urls $etcd --listen-peer-urls http://127.0.0.1:2380 \
    --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
  local file
  for file in admission.yaml webhooks.yaml; do render "$file" >"$run/$file"; done
  start kube-apiserver kube-apiserver --etcd-servers=$etcd --advertise-address="$node_ip" --bind-address=0.0.0.0 \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP,Hostname \
    --service-account-issuer="https://kubernetes.default.svc.$domain" --service-account-key-file="$pki/service-accounts.pub" \
    --service-account-signing-key-file="$pki/service-accounts.key" --service-cluster-ip-range="$services" \
    --authorization-mode=Node,RBAC --enable-admission-plugins="$1" --allow-privileged=true \
    --admission-control-config-file="$run/admission.yaml"
  wait_until 120 "kube-apiserver ready" kubectl get --raw /readyz
}

start_node() {
  local file
  for file in containerd.toml kubelet.yaml kube-proxy.yaml; do render "$file" >"$run/$file"; done
  mkdir -p "$run/cni" "$run/static-pods"
  render pods.conflist >"$run/cni/pods.conflist"
  echo "nameserver $node_ip" >"$run/resolv.conf" # nobody answers there: a pod of dnsPolicy Default has no DNS
  start containerd containerd --config "$run/containerd.toml"
  start_controllers
  wait_until 60 "containerd ready" ctr version
  for file in pause coredns; do ctr -n k8s.io images import "$images/$file.tar" >/dev/null; done
  start kubelet kubelet --config="$run/kubelet.yaml" --kubeconfig="$pki/kubelet.kubeconfig" --root-dir="$run/kubelet" \
    --hostname-override="$node_name" --node-ip="$node_ip"
  start kube-proxy kube-proxy --config="$run/kube-proxy.yaml"
  wait_until 120 "node $node_name Ready" kubectl wait --for=condition=Ready "node/$node_name" --timeout=1s
}

start_controllers() {
  start kube-controller-manager kube-controller-manager --kubeconfig="$pki/controller-manager.kubeconfig" \
    --authentication-kubeconfig="$pki/controller-manager.kubeconfig" --authorization-kubeconfig="$pki/controller-manager.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/service-accounts.key" --cluster-signing-cert-file="$pki/ca.crt" \
    --cluster-signing-key-file="$pki/ca.key" --service-cluster-ip-range="$services"
  start kube-scheduler kube-scheduler --kubeconfig="$pki/scheduler.kubeconfig" \
    --authentication-kubeconfig="$pki/scheduler.kubeconfig" --authorization-kubeconfig="$pki/scheduler.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false
}

start_cluster_dns() {
  render coredns.yaml | kubectl apply -f - >/dev/null
  wait_until 120 "CoreDNS available" kubectl -n kube-system rollout status deployment/coredns --timeout=1s
  wait_until 30 "the Service kube-dns reachable" timeout 1 bash -c ": </dev/tcp/$dns_ip/53"
  wait_until 30 "the namespace default with its ServiceAccount" kubectl get serviceaccount default
}

render() { # file of config/, its @settings@ filled in
  local expression="" setting
  for setting in bin run pki cgroup node_name dns_ip pods domain; do expression+="s|@$setting@|${!setting}|g;"; done
  sed "$expression" "$here/config/$1"
}

# PID 1 reaps whatever ends in the node, and keeps a record of its own processes that should not have.
watch_processes() {
  local process
  sleep infinity &
  while :; do
    wait -n || true
    for process in "${!started[@]}"; do
      kill -0 "${started[$process]}" 2>/dev/null && continue
      echo "$process" >>"$run/ended"
      unset "started[$process]"
    done
  done
}
