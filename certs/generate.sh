#!/usr/bin/env bash
# Makes two certificate authorities, server certificates and client certificates for trying things out.
#
# Not for production: the authorities' keys lie unencrypted beside what they sign. Needs bash and openssl, nothing else.
# Written for bash 3.2 and for LibreSSL too, so that a Mac's own tools are enough.
set -euo pipefail

default_out="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/out"
default_names="localhost,127.0.0.1,::1,mongo"
default_spiffe_id="spiffe://cluster.local/ns/shop/sa/orders"
# Where the gateway's clients find it: beside them.
gateway_names="localhost,127.0.0.1,::1"
# The authority outlives everything it signs, so that an expired leaf is always just that.
authority_days=3650
# What a complete set consists of. ca.pem is moved into place last: where it is, the others are.
files="ca.key crl.pem server.pem client.pem client.crt client.key spiffe-client.pem"
files="$files mesh-ca.key mesh-ca.pem mesh-crl.pem mesh-client.pem gateway.pem gateway.key ca.pem"

usage() {
    cat <<END
Makes a development PKI with openssl.

Usage: certs/generate.sh [OPTIONS]

Options:
  --out DIR        where the files go [default: certs/out]
  --names LIST     DNS names and IP addresses of the server certificate, comma-separated
                   [default: $default_names]
  --spiffe-id URI  the URI of spiffe-client.pem and mesh-client.pem
                   [default: $default_spiffe_id]
  --days N         days until everything but the authorities expires, 1 to $authority_days [default: 365]
  --key-type TYPE  rsa2048, rsa4096, p256, p384 or ed25519 [default: p256]
  --force          replace a set that is there already, authority included
  --if-missing     succeed without doing anything if a complete set is there already
  -h, --help       this text

Files towards mongod:
  ca.pem             the authority: mongod's --tlsCAFile, the gateway's ca_file
  ca.key             its key; only needed to sign more
  crl.pem            its revocation list, with nothing in it yet: the gateway's crl_file
  server.pem         certificate and key in one file: mongod's --tlsCertificateKeyFile
  client.pem         certificate and key in one file: the gateway's certificate_file
  client.crt, .key   the same two, apart: certificate_file and private_key_file
  spiffe-client.pem  another client, certificate and key in one file, with a SPIFFE URI as its name

Files towards clients of a listener with TLS:
  mesh-ca.pem        the authority of the mesh: the listener's ca_file, a client's tlsCAFile
  mesh-ca.key        its key; only needed to sign more
  mesh-crl.pem       its revocation list, with nothing in it yet: the listener's crl_file
  gateway.pem, .key  certificate and key in one file, and the key apart: the listener's certificate_file
  mesh-client.pem    certificate and key in one file, with a SPIFFE URI as its name: a client's tlsCertificateKeyFile

Every file that holds a key has mode 0600. Exit status: 0 made (or there already, with --if-missing),
1 not made, 2 wrong options.
END
}

fail() {
    echo "generate.sh: $*" >&2
    exit 1
}

wrong_option() {
    echo "generate.sh: $*; see --help" >&2
    exit 2
}

# Wraps openssl: silent when it succeeds, its own words when it does not.
tool() {
    openssl "$@" >"$work/openssl.log" 2>&1 && return
    cat "$work/openssl.log" >&2
    fail "openssl $1 failed, see above; nothing in $out was changed"
}

read_options() {
    out=$default_out names=$default_names spiffe_id=$default_spiffe_id days=365 key_type=p256 force=no if_missing=no
    while [ $# -gt 0 ]; do
        case $1 in
        --out | --names | --spiffe-id | --days | --key-type)
            [ -n "${2:-}" ] || wrong_option "$1 needs a value"
            case $1 in
            --out) out=$2 ;;
            --names) names=$2 ;;
            --spiffe-id) spiffe_id=$2 ;;
            --days) days=$2 ;;
            --key-type) key_type=$2 ;;
            esac
            shift 2
            ;;
        --force) force=yes && shift ;;
        --if-missing) if_missing=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) wrong_option "unknown option $1" ;;
        esac
    done
    [ "$force$if_missing" != yesyes ] || wrong_option "--force and --if-missing contradict each other"
}

check_options() {
    if ! [[ $days =~ ^[1-9][0-9]{0,3}$ ]] || [ "$days" -gt $authority_days ]; then
        wrong_option "--days $days: a whole number from 1 to $authority_days is expected"
    fi
    case $key_type in
    rsa2048 | rsa4096 | p256 | p384 | ed25519) ;;
    *) wrong_option "--key-type $key_type: rsa2048, rsa4096, p256, p384 or ed25519 is expected" ;;
    esac
    # An X.509-SVID has a trust domain in lower case and a path.
    [[ $spiffe_id =~ ^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$ ]] ||
        wrong_option "--spiffe-id $spiffe_id: spiffe://TRUST-DOMAIN/PATH is expected"
    subject_alt_names=$(alt_names "$names")
}

# "localhost,::1" -> "DNS:localhost,IP:::1", which is how an openssl configuration writes it.
alt_names() {
    local name entry list=""
    local dns_name='^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$'
    IFS=, read -r -a parts <<<"$1"
    for name in "${parts[@]}"; do
        if is_ipv4 "$name" || [[ $name =~ ^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$ ]]; then
            entry=IP:$name
        elif [[ $name =~ $dns_name ]] && ! [[ $name =~ ^[0-9.]+$ ]]; then
            entry=DNS:$name
        else
            wrong_option "--names: '$name' is neither a DNS name nor an IP address (write IPv6 without brackets)"
        fi
        list=$list${list:+,}$entry
    done
    echo "$list"
}

is_ipv4() {
    local octet
    [[ $1 =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] || return 1
    for octet in ${1//./ }; do
        [ "$octet" -le 255 ] || return 1
    done
}

# Decides whether there is anything to do; does not return if not.
look_at_what_is_there() {
    local file present="" missing=""
    for file in $files; do
        if [ -e "$out/$file" ]; then present="$present $file"; else missing="$missing $file"; fi
    done
    if [ -z "$present" ] || [ $force = yes ]; then return 0; fi
    if [ $if_missing = no ]; then
        fail "$out holds$present already; --force replaces the whole set, --out DIR writes elsewhere"
    elif [ -n "$missing" ]; then
        fail "$out holds$present, but not$missing; --force makes a complete set"
    elif ! openssl x509 -in "$out/client.crt" -noout -checkend 0 >/dev/null; then
        fail "the certificates in $out have expired; --force replaces them"
    fi
    echo "$out holds a complete set already; nothing done"
    exit 0
}

make_key() {
    case $key_type in
    rsa*) tool genpkey -algorithm RSA -pkeyopt "rsa_keygen_bits:${key_type#rsa}" -out "$1" ;;
    p256) tool genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -pkeyopt ec_param_enc:named_curve -out "$1" ;;
    p384) tool genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -pkeyopt ec_param_enc:named_curve -out "$1" ;;
    ed25519) tool genpkey -algorithm ED25519 -out "$1" ;;
    esac
}

# One section per kind of certificate. Without such a section openssl would sign version 1, which says nothing of its use.
write_extensions() {
    # Only TLS 1.2 with RSA key exchange encrypts with a certificate's key; other keys cannot.
    local leaf_usage=digitalSignature
    case $key_type in rsa*) leaf_usage=digitalSignature,keyEncipherment ;; esac
    cat >"$work/openssl.cnf" <<END
[req]
distinguished_name = name
prompt = no
[name]
O = mongate development
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
# clientAuth as well: mongod shows this certificate to the other members of its replica set.
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $subject_alt_names
[gateway]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $(alt_names "$gateway_names")
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[spiffe]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:$spiffe_id
[workload]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
# Both, as a mesh issues them: a workload calls and is called.
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:$spiffe_id
[list]
database = $work/index.txt
crlnumber = $work/crlnumber
default_md = sha256
[list_extensions]
authorityKeyIdentifier = keyid
END
}

# make_authority FILE CN -> FILE.key and FILE.pem
make_authority() {
    make_key "$work/$1.key"
    tool req -x509 -new -key "$work/$1.key" -out "$work/$1.pem" -days $authority_days \
        -subj "/O=mongate development/CN=$2" -config "$work/openssl.cnf" -extensions authority
}

# make_list AUTHORITY FILE -> a list of nothing, to show its form
make_list() {
    : >"$work/index.txt"
    echo 01 >"$work/crlnumber"
    tool ca -gencrl -config "$work/openssl.cnf" -name list -crlexts list_extensions -crldays "$days" \
        -cert "$work/$1.pem" -keyfile "$work/$1.key" -out "$work/$2"
}

# make_leaf AUTHORITY FILE SECTION OU CN -> FILE.key, FILE.crt and both in FILE.pem
make_leaf() {
    local authority=$work/$1 base=$work/$2
    make_key "$base.key"
    # Servers and clients differ in OU: mongod takes a client whose O, OU and DC are its own for a cluster member.
    tool req -new -key "$base.key" -out "$base.csr" -subj "/O=mongate development/OU=$4/CN=$5" -config "$work/openssl.cnf"
    tool x509 -req -in "$base.csr" -out "$base.crt" -days "$days" -CA "$authority.pem" -CAkey "$authority.key" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/openssl.cnf" -extensions "$3"
    tool verify -CAfile "$authority.pem" "$base.crt"
    cat "$base.crt" "$base.key" >"$base.pem"
}

put_in_place() {
    local file
    for file in $files; do
        case $file in *ca.pem | *crl.pem | *.crt) chmod 0644 "$work/$file" ;; *) chmod 0600 "$work/$file" ;; esac
        mv -f "$work/$file" "$out/$file"
    done
}

report() {
    local expiry
    expiry=$(openssl x509 -in "$out/client.crt" -noout -enddate)
    cat <<END
Made in $out ($key_type keys; all but the authorities expire ${expiry#notAfter=}):
  ca.pem  ca.key  crl.pem  server.pem  client.pem  client.crt  client.key  spiffe-client.pem
  mesh-ca.pem  mesh-ca.key  mesh-crl.pem  mesh-client.pem  gateway.pem  gateway.key
Server names: $names
A mongod that requires client certificates:
  mongod --tlsMode requireTLS --tlsCertificateKeyFile '$out/server.pem' --tlsCAFile '$out/ca.pem' --dbpath DIR
END
}

read_options "$@"
check_options
command -v openssl >/dev/null || fail "openssl is not installed or not on the PATH; install it (Debian: apt-get install openssl)"
look_at_what_is_there

# From here on nobody else may read what is written, until put_in_place opens the public files.
umask 077
mkdir -p "$out" || fail "cannot create $out; choose another folder with --out"
# Inside $out, so that the final moves stay on one file system and cannot fail half-way for lack of space.
work=$(mktemp -d "$out/.new.XXXXXX") || fail "cannot write into $out; choose another folder with --out"
trap 'rm -rf "$work"' EXIT
write_extensions
make_authority ca "mongate development CA"
make_leaf ca server server servers mongod
make_leaf ca client client clients client
make_leaf ca spiffe-client spiffe clients spiffe-client
make_list ca crl.pem
make_authority mesh-ca "mongate development mesh CA"
make_leaf mesh-ca gateway gateway gateways mongate
make_leaf mesh-ca mesh-client workload workloads orders
make_list mesh-ca mesh-crl.pem
put_in_place
report
