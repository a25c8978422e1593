#!/usr/bin/env bash
# Runs a command beside a real Kubernetes, and ends that with it:
#
#     tests/cluster.sh COMMAND...
#
# There is etcd from Debian's package, and an API server with the controllers that keep roles, namespaces, accounts and
# quotas, built once from Debian's sources and kept in the cache. No node and no scheduler: nothing runs in it. All of it listens on
# the loopback and lives in one folder that goes with it. The command finds it by
#
#     ROSTERD_TEST_KUBECONFIG   opens it for an admin, by a client certificate
#     ROSTERD_TEST_AUDIT_LOG    the server's own record of what it was asked
#
# `./dev cluster COMMAND...` installs what this needs and calls it.
set -euo pipefail

cache=${ROSTERD_TEST_CACHE:-${HOME:-/root}/.cache/rosterd-test}
version=1.20.5+really1.20.2-1.1+deb12u1
programs=$cache/kubernetes-$version

# Debian's own way to build it, for two programs of all.
build() {
    local work=$programs.building
    rm -rf "$work"
    mkdir -p "$work/lists/partial"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" \
        >"$work/sources.list"
    local apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
        -o "Dir::State::lists=$work/lists")
    cd "$work"
    "${apt[@]}" update
    "${apt[@]}" source --download-only "kubernetes=$version"
    dpkg-source -x ./*.dsc tree
    cd tree
    # The copy among the sources walks maps as Go did before 1.18, and the server dies of it.
    rm -r vendor/github.com/modern-go/reflect2
    cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
    mkdir -p .go/src/k8s.io
    ln -s ../../.. .go/src/k8s.io/kubernetes
    env GOPATH="$PWD/.go" GOPROXY=off GOFLAGS= CGO_ENABLED=0 PATH="/usr/lib/go/bin:$PATH" \
        nice -n 5 make WHAT="cmd/kube-apiserver cmd/kube-controller-manager"
    mkdir "$work/programs"
    cp _output/bin/kube-apiserver _output/bin/kube-controller-manager "$work/programs/"
    cd /
    rm -rf "$programs"
    mv "$work/programs" "$programs"
    rm -rf "$work"
}

[ $# -gt 0 ] || {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 64
}
[ -x "$programs/kube-controller-manager" ] || (build)

run=$(mktemp -d "${TMPDIR:-/tmp}/rosterd-test-cluster.XXXXXX")
pids=()
# shellcheck disable=SC2317 # the trap calls it
end() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait "${pids[@]}" 2>/dev/null || true
    rm -rf "$run"
}
trap end EXIT
trap 'exit 130' INT TERM

give_up() {
    printf '%s\n' "$*" >&2
    tail -n 20 "$run"/*.out >&2
    exit 1
}

free_port() {
    local port
    while port=$((RANDOM % 20000 + 20000)); do
        # Nobody answers there.
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# An authority, a server and two clients; each key beside its certificate.
certificate() {
    local name=$1 subject=$2
    shift 2
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "$subject" \
        -keyout "$run/$name.key" -out "$run/$name.crt" "$@" 2>>"$run/openssl.out" || give_up "no certificate"
}
certificate ca /CN=rosterd-test-ca
signed=(-CA "$run/ca.crt" -CAkey "$run/ca.key" -addext "basicConstraints=critical,CA:FALSE")
certificate server /CN=kubernetes "${signed[@]}" -addext subjectAltName=IP:127.0.0.1
certificate admin /O=system:masters/CN=admin "${signed[@]}" -addext extendedKeyUsage=clientAuth
certificate controllers /O=system:masters/CN=controllers "${signed[@]}" -addext extendedKeyUsage=clientAuth
openssl genrsa -out "$run/accounts.key" 2048 2>>"$run/openssl.out"

# What the server and its controllers ask themselves is nobody's to count.
cat >"$run/audit.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
  - {level: None, users: [controllers, "system:apiserver"]}
  - {level: Metadata}
YAML

etcd=http://127.0.0.1:$(free_port) peers=http://127.0.0.1:$(free_port) server=https://127.0.0.1:$(free_port)
kubeconfig() {
    local name=$1
    cat >"$run/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: $name}}]
clusters: [{name: test, cluster: {server: '$server', certificate-authority: $run/ca.crt}}]
users: [{name: $name, user: {client-certificate: $run/$name.crt, client-key: $run/$name.key}}]
YAML
}
kubeconfig admin
kubeconfig controllers

etcd --data-dir "$run/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls "$peers" \
    --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers" >"$run/etcd.out" 2>&1 &
pids+=($!)
"$programs/kube-apiserver" --etcd-servers="$etcd" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
    --secure-port="${server##*:}" --endpoint-reconciler-type=none --service-cluster-ip-range=10.0.0.0/24 \
    --authorization-mode=RBAC --client-ca-file="$run/ca.crt" --tls-cert-file="$run/server.crt" \
    --tls-private-key-file="$run/server.key" --cert-dir="$run" --service-account-issuer=https://kubernetes.test \
    --service-account-key-file="$run/accounts.key" --service-account-signing-key-file="$run/accounts.key" \
    --audit-policy-file="$run/audit.yaml" --audit-log-path="$run/audit.log" >"$run/kube-apiserver.out" 2>&1 &
pids+=($!)
"$programs/kube-controller-manager" --kubeconfig="$run/controllers.kubeconfig" --leader-elect=false --port=0 --secure-port=0 \
    --controllers=clusterrole-aggregation,garbagecollector,namespace,resourcequota,serviceaccount,serviceaccount-token \
    --service-account-private-key-file="$run/accounts.key" --root-ca-file="$run/ca.crt" \
    >"$run/kube-controller-manager.out" 2>&1 &
pids+=($!)

# It is there when the controllers have filled the role that owners of a namespace get.
ask() { curl -fsS --cacert "$run/ca.crt" --cert "$run/admin.crt" --key "$run/admin.key" "$server$1"; }
tries=0
until ask /apis/rbac.authorization.k8s.io/v1/clusterroles/admin 2>/dev/null | grep -q '"pods"'; do
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || give_up "a part of the cluster has ended"; done
    tries=$((tries + 1))
    [ $tries -lt 600 ] || give_up "the cluster is not there after a minute"
    sleep 0.1
done

status=0
ROSTERD_TEST_KUBECONFIG=$run/admin.kubeconfig ROSTERD_TEST_AUDIT_LOG=$run/audit.log "$@" || status=$?
exit $status
