# Who the pod's questions go to: a public resolver where one can be reached, else one of the demo's own. Sets $upstream, as a
# profile names it, and $upstream_ca, a file, empty for public ones.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # settings are shared with ./demo

own_address=192.0.2.53 # TEST-NET-1: nobody's
own_name=dns.demo.test
own_answer=203.0.113.80
own=$state/upstream

choose_upstream() {
  local preset
  for preset in cloudflare quad9; do
    detail "trying $preset, with one authenticated question from here …"
    if asks_over_tls $preset && way_out; then
      upstream=$preset upstream_ca=""
      detail "a public one: $preset answers over TLS, on port 853"
      return
    fi
  done
  upstream=tls://$own_address:853#$own_name upstream_ca=$own/ca.crt
  start_own
  detail "no public resolver answers over TLS here, so one of our own: unbound on the node, $upstream,"
  detail "with a certificate by a CA made for this demo"
}

start_own() {
  mkdir -p "$own"
  make_certificates
  cat >"$own/unbound.conf" <<END
server:
  interface: $own_address@853
  tls-port: 853
  tls-service-key: "$own/server.key"
  tls-service-pem: "$own/server.crt"
  access-control: 0.0.0.0/0 allow
  username: ""
  chroot: ""
  directory: "$own"
  pidfile: "$own/unbound.pid"
  use-syslog: no
  logfile: "$own/unbound.log"
  log-queries: yes
  module-config: "iterator"
  local-zone: "." static
  local-data: "$public_name. 60 IN A $own_answer"
remote-control:
  control-enable: no
END
  node sh -c "! [ -s $own/unbound.pid ] || kill \$(cat $own/unbound.pid) 2>/dev/null || true"
  rm -f "$own/unbound.log" "$own/unbound.pid"
  node sh -c "ip link show demo0 >/dev/null 2>&1 || { ip link add demo0 type bridge && ip address add $own_address/32 dev demo0 && ip link set demo0 up; }"
  node unbound -c "$own/unbound.conf" || fail "unbound could not be started: $own/unbound.log"
  local deadline=$((SECONDS + 10))
  until node bash -c ": </dev/tcp/$own_address/853" 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || fail "unbound does not listen on $own_address:853: $own/unbound.log"
    sleep 0.2
  done
}

make_certificates() {
  local key=(-newkey ec -pkeyopt "ec_paramgen_curve:P-256" -nodes -days 30)
  [ ! -e "$own/server.crt" ] || return 0
  node openssl req -x509 "${key[@]}" -subj "/CN=CA of the demo" -keyout "$own/ca.key" -out "$own/ca.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
  node openssl req -x509 "${key[@]}" -subj "/CN=$own_name" -CA "$own/ca.crt" -CAkey "$own/ca.key" -keyout "$own/server.key" -out "$own/server.crt" \
    -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth -addext "subjectAltName=DNS:$own_name" 2>/dev/null ||
    fail "openssl could not make the resolver's certificate"
}
