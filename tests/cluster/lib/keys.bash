# The cluster's certificates and kubeconfigs, made anew by each `up` and gone with `down`.
# shellcheck shell=bash
# shellcheck disable=SC2154 # settings come from ../cluster

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
days=30

certificate() { # name subject [subjectAltName]
  openssl req "${new_key[@]}" -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
  {
    echo keyUsage=critical,digitalSignature
    echo extendedKeyUsage=serverAuth,clientAuth
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$pki/$1.ext"
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days $days -extfile "$pki/$1.ext" \
    -out "$pki/$1.crt" 2>/dev/null || die "openssl could not sign the certificate of $1"
  rm "$pki/$1.csr" "$pki/$1.ext"
}

kubeconfig() { # name, of the certificate too
  cat >"$pki/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: $name, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $pki/$1.crt, client-key: $pki/$1.key}}]
contexts: [{name: $name, context: {cluster: $name, user: $1}}]
current-context: $name
END
}

make_keys() {
  (umask 077 && mkdir -p "$pki")
  openssl req -x509 "${new_key[@]}" -days $days -subj /CN=cluster-ca -keyout "$pki/ca.key" -out "$pki/ca.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null ||
    die "openssl could not make the cluster's CA"
  certificate apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$domain,DNS:localhost,IP:127.0.0.1,IP:$api_ip,IP:$node_ip"
  certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate kubelet "/O=system:nodes/CN=system:node:$node_name" "DNS:$node_name,IP:127.0.0.1,IP:$node_ip"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  certificate webhooks /CN=kube-apiserver
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$pki/service-accounts.key" 2>/dev/null
  openssl pkey -in "$pki/service-accounts.key" -pubout -out "$pki/service-accounts.pub"
  local user
  for user in admin kubelet controller-manager scheduler proxy; do kubeconfig $user; done
}
