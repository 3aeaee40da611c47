# Building what the cluster is made of: pinned Go modules, compiled once, into $bin.
# shellcheck shell=bash
# shellcheck disable=SC2154 # settings come from ../cluster

components=(kube-apiserver etcd kubectl kubelet kube-controller-manager kube-scheduler kube-proxy containerd cni coredns pause helm)

install_packages() { # further packages…
  local missing=() package
  # The node's own, then what the tests ask DNS with, capture with, and build images with.
  for package in runc iproute2 nftables conntrack openssl curl ca-certificates socat slirp4netns procps util-linux \
    unbound knot-dnsutils bind9-dnsutils tcpdump buildah "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs the packages ${missing[*]}; only Debian's are known here"
  say "installing ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120)
  timeout 300 "${apt[@]}" update </dev/null || say "the package lists could not be refreshed: trying with those at hand"
  timeout 600 "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" </dev/null >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

kubernetes_version() { sed -n 's/^\s*k8s.io\/kubernetes v\([0-9.]*\).*/\1/p' "$here/kubernetes/go.mod"; }

go_build() { # module-directory output ldflags tags package
  (cd "$here/$1" && CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" go build -tags "$4" -ldflags "-s -w $3" -o "$2" "$5") ||
    die "$5 could not be built"
}

build_into() { # component directory
  local component=$1 out=$2 version package
  case $component in
    kube*)
      version=$(kubernetes_version)
      package=k8s.io/component-base/version
      go_build kubernetes "$out/$component" "-X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version") \
        -X k8s.io/client-go/pkg/version.gitVersion=v$version" "" "k8s.io/kubernetes/cmd/$component"
      ;;
    etcd) go_build kubernetes "$out/etcd" "" "" go.etcd.io/etcd/server/v3 ;;
    containerd)
      for package in containerd containerd-shim-runc-v2 ctr; do
        go_build node "$out/$package" "" "no_btrfs no_devmapper no_zfs no_aufs no_erofs" "github.com/containerd/containerd/v2/cmd/$package"
      done
      ;;
    cni)
      mkdir "$out/cni"
      for package in ipam/host-local main/ptp main/loopback meta/portmap; do
        go_build node "$out/cni/${package#*/}" "" "" "github.com/containernetworking/plugins/plugins/$package"
      done
      ;;
    pause) go_build node "$out/pause" "" "" ./pause ;;
    coredns) go_build addons "$out/coredns" "" "" ./coredns ;;
    helm) go_build addons "$out/helm" "" "" helm.sh/helm/v4/cmd/helm ;;
  esac
}

module_of() { # component
  case $1 in
    kube* | etcd) echo kubernetes ;;
    containerd | cni | pause) echo node ;;
    coredns | helm) echo addons ;;
    *) die "there is no component '$1' to build; there are: ${components[*]}" ;;
  esac
}

# What a component is built from, as one word: it is built again when this changes.
recipe_of() { # component
  local module
  module=$(module_of "$1")
  { go env GOVERSION GOARCH && declare -f go_build build_into image && find "$here/$module" -type f | sort | xargs cat; } | sha256sum | cut -c1-16
}

build() { # component…
  command -v go >/dev/null || die "needs Go (the version that kubernetes/go.mod names, or a later one)"
  local wanted=("$@") component
  [ $# -gt 0 ] || wanted=("${components[@]}")
  for component in "${wanted[@]}"; do module_of "$component" >/dev/null; done
  for component in "${wanted[@]}"; do with_lock build 3000 build_component "$component"; done
}

build_component() { # component: nothing is done where it was built by the same recipe
  local component=$1 recipe began=$SECONDS work
  recipe=$(recipe_of "$component")
  mkdir -p "$bin/.built" "$images"
  [ "$(cat "$bin/.built/$component" 2>/dev/null)" != "$recipe" ] || return 0
  work=$(mktemp -d "$home/build.XXXXXX")
  (build_into "$component" "$work") || { rm -rf "$work"; exit 1; }
  # Moved into place whole: a cluster that runs keeps the file it started from.
  [ "$component" != cni ] || [ ! -e "$bin/cni" ] || mv "$bin/cni" "$work.old"
  mv -f "$work"/* "$bin/"
  rm -rf "$work" "$work.old"
  case $component in pause | coredns) image "dot-sidecar.local/$component:v1" "$bin/$component" "$images/$component.tar" ;; esac
  echo "$recipe" >"$bin/.built/$component"
  say "built $component in $((SECONDS - began)) s"
}

image() { # name binary out.tar: an image archive as `docker save` writes it, the same bytes for the same binary
  [ $# -eq 3 ] || die "image: needs NAME BINARY OUT.tar"
  local work layer
  work=$(mktemp -d)
  mkdir -p "$work/layer/etc" "$work/layer/tmp"
  install -m 0755 "$2" "$work/layer/app"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/layer" -cf "$work/layer.tar" .
  layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/app"],"User":"65532:65532"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$layer" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" >"$work/manifest.json"
  tar --mtime=@0 -C "$work" -cf "$3.part" config.json layer.tar manifest.json
  mv "$3.part" "$3"
  rm -r "$work"
}
