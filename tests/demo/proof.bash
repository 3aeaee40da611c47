# What left the pod, as others saw it: a capture beside it, the upstream's log, cluster DNS's log, the sidecar's own count.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # settings are shared with ./demo

capture=$state/capture.pcap

# Each packet that the node takes in from any pod, from now on; read for one pod by its address once that is known.
start_capture() {
  stop_capture
  rm -f "$capture"
  : >"$state/tcpdump.log" # read before tcpdump has written anything
  # shellcheck disable=SC2016 # expanded by the inner shell
  node sh -c 'echo $$ >"$1.pid" && exec tcpdump -i any -Q in -n -U -Z root -w "$1" ip' sh "$capture" >"$state/tcpdump.log" 2>&1 </dev/null &
  local deadline=$((SECONDS + 10))
  until grep -q 'listening on' "$state/tcpdump.log"; do
    [ $SECONDS -lt $deadline ] || fail "tcpdump did not start: $(cat "$state/tcpdump.log")"
    sleep 0.1
  done
  trap stop_capture EXIT
}

stop_capture() {
  [ -s "$capture.pid" ] || return 0
  node kill -INT "$(cat "$capture.pid")" 2>/dev/null || true
  rm -f "$capture.pid"
}

captured() { node tcpdump -r "$capture" -nn -q "$@" 2>/dev/null; }

prove() {
  local pod_ip
  pod_ip=$(k -n "$namespace" get pod app -o jsonpath='{.status.podIP}')
  sleep 1 # the kernel hands packets to tcpdump with a delay
  stop_capture
  show_destinations "$pod_ip"
  prove_encrypted "$pod_ip"
  prove_upstream_asked
  prove_cluster_dns_not_asked
  show_metrics
}

show_destinations() { # pod's address
  detail "from $1, packets by destination:"
  # In: 10.88.0.9.35124 > 192.0.2.53.853: tcp 0
  captured "src host $1 and (port 53 or port 853)" |
    sed -nE 's/.* > ([0-9.]+)\.([0-9]+): (UDP|udp|tcp|TCP).*/\1 \2 \3/p' | sort | uniq -c |
    while read -r count address port protocol; do
      case $port in
        853) printf '   %6d  %s  port %s/%s  TLS, to the upstream\n' "$count" "$address" "$port" "${protocol,,}" ;;
        *) printf '   %6d  %s  port %s/%s   in clear, to cluster DNS: %s\n' "$count" "$address" "$port" "${protocol,,}" "$(questions "$1")" ;;
      esac
    done
}

questions() { # pod's address: the names that went out in clear
  node tcpdump -r "$capture" -nn "src host $1 and udp dst port 53" 2>/dev/null | sed -nE 's/.* (A|AAAA)\? ([^ ]+)\. .*/\2/p' | sort -u | paste -sd ' '
}

prove_encrypted() { # pod's address
  local tls clear dns
  dns=$(k -n kube-system get service kube-dns -o jsonpath='{.spec.clusterIP}')
  tls=$(captured "src host $1 and tcp dst port 853" | wc -l)
  [ "$tls" -gt 0 ] || fail "nothing went to port 853"
  clear=$(captured "src host $1 and dst port 53 and not dst host $dns" | wc -l)
  [ "$clear" = 0 ] || fail "$clear packets went to port 53 of somebody other than cluster DNS"
  proved "$tls packets over TLS; none to port 53 of anybody but cluster DNS ($dns)"
  # On the wire www.example.com is \3www\7example\3com\0: with its final zero, so that search expansions of it do not count.
  local label wire=""
  for label in ${public_name//./ }; do wire+=$(printf '\\x%02x%s' ${#label} "$label"); done
  ! node grep -q -a -P "$wire\\x00" "$capture" || fail "$public_name stands in clear in what was captured"
  proved "the name $public_name stands in none of the captured bytes"
  ! questions "$1" | grep -q "$public_name" ||
    detail "  (its search expansion could be a pod of the cluster, so cluster DNS had to be asked: see the README's limits)"
}

prove_upstream_asked() {
  if [ -z "$upstream_ca" ]; then
    detail "the upstream is a public resolver: its log is not ours to read"
    return
  fi
  local line
  line=$(grep -F " $public_name. A IN" "$own/unbound.log" | tail -n 1) || fail "the upstream's log does not know $public_name: $own/unbound.log"
  proved "the upstream got it, over TLS alone (it has no other port):  ${line#*info: }"
}

prove_cluster_dns_not_asked() {
  local log=$state/coredns.log
  k -n kube-system logs -l k8s-app=kube-dns --tail=-1 >"$log"
  ! grep -qF " $public_name. " "$log" || fail "cluster DNS was asked for $public_name"
  # kind's CoreDNS does not log questions: there the capture alone speaks.
  if grep -q "$cluster_name" "$log"; then
    proved "cluster DNS got:  $(grep -F "$cluster_name" "$log" | tail -n 1 | sed 's/^\[INFO\] //'), and not $public_name"
  fi
}

show_metrics() {
  detail "the sidecar's own count (port 9853 of the pod, /metrics):"
  k get --raw "/api/v1/namespaces/$namespace/pods/app:9853/proxy/metrics" >"$state/metrics" || fail "the sidecar's metrics cannot be read"
  grep -E '^dot_proxy_(upstream_queries|queries|responses)_total' "$state/metrics" | grep -v ' 0$' | sed 's/^/     /'
}
