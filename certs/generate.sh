#!/usr/bin/env bash
# Makes two CAs, server certificates and client certificates for development.
#
# Not for production: the private keys of the CAs are stored unencrypted next to the certificates that they sign.
# Needs only bash and openssl. Also works with bash 3.2 and LibreSSL, which macOS includes.
set -euo pipefail

default_out="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/out"
default_names="localhost,127.0.0.1,::1,mongo"
default_spiffe_id="spiffe://cluster.local/ns/shop/sa/orders"
# Clients of a listener with TLS connect on the same host.
gateway_names="localhost,127.0.0.1,::1"
# The CAs outlive every certificate that they sign, so only leaf certificates and revocation lists expire.
ca_days=3650
# All files of a complete set. ca.pem is moved into place last: if it exists, the other files exist too.
files="ca.key crl.pem server.pem client.pem client.crt client.key spiffe-client.pem"
files="$files mesh-ca.key mesh-ca.pem mesh-crl.pem mesh-client.pem gateway.pem gateway.key ca.pem"

usage() {
    cat <<END
Makes a development PKI with openssl.

Usage: certs/generate.sh [OPTIONS]

Options:
  --out DIR        directory of the files [default: certs/out]
  --names LIST     DNS names and IP addresses of the server certificate, comma-separated
                   [default: $default_names]
  --spiffe-id URI  SPIFFE ID in spiffe-client.pem and mesh-client.pem
                   [default: $default_spiffe_id]
  --days N         days until the certificates and revocation lists expire, 1 to $ca_days [default: 365];
                   the CAs always expire after $ca_days days
  --key-type TYPE  rsa2048, rsa4096, p256, p384 or ed25519 [default: p256]
  --force          replace an existing set, including its CAs
  --if-missing     succeed without changes if a complete set exists
  -h, --help       print this text

Files for TLS between the gateway and mongod:
  ca.pem             CA certificate: mongod's --tlsCAFile, the gateway's ca_file
  ca.key             private key of the CA, only needed to sign more certificates
  crl.pem            revocation list of the CA, empty: the gateway's crl_file
  server.pem         certificate and private key: mongod's --tlsCertificateKeyFile
  client.pem         certificate and private key: the gateway's certificate_file
  client.crt, .key   the same in two files: the gateway's certificate_file and private_key_file
  spiffe-client.pem  certificate and private key of another client, with a SPIFFE ID

Files for TLS between clients and a listener of the gateway:
  mesh-ca.pem        CA certificate: the listener's ca_file, a client's tlsCAFile
  mesh-ca.key        private key of the CA, only needed to sign more certificates
  mesh-crl.pem       revocation list of the CA, empty: the listener's crl_file
  gateway.pem, .key  certificate and private key, and the private key alone: the listener's certificate_file
  mesh-client.pem    certificate and private key with a SPIFFE ID: a client's tlsCertificateKeyFile

Every file with a private key has mode 0600.
Exit codes: 0 made, or already complete with --if-missing; 1 not made; 2 wrong options.
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

# Runs openssl. Prints openssl's output only if it fails.
run_openssl() {
    openssl "$@" >"$work/openssl.log" 2>&1 && return
    cat "$work/openssl.log" >&2
    fail "openssl $1 failed, see above; no file in $out has changed"
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
    if ! [[ $days =~ ^[1-9][0-9]{0,3}$ ]] || [ "$days" -gt $ca_days ]; then
        wrong_option "--days $days: a whole number from 1 to $ca_days is expected"
    fi
    case $key_type in
    rsa2048 | rsa4096 | p256 | p384 | ed25519) ;;
    *) wrong_option "--key-type $key_type: rsa2048, rsa4096, p256, p384 or ed25519 is expected" ;;
    esac
    # An X.509-SVID requires a trust domain in lower case and a path.
    [[ $spiffe_id =~ ^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$ ]] ||
        wrong_option "--spiffe-id $spiffe_id: spiffe://TRUST-DOMAIN/PATH is expected"
    subject_alt_names=$(alt_names "$names")
}

# alt_names LIST: "localhost,::1" -> "DNS:localhost,IP:::1", the form of openssl's configuration file
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
            wrong_option "--names: '$name' is neither a DNS name nor an IP address; write IPv6 without brackets"
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

# Checks for an existing set. Exits if it must not be replaced, or with --if-missing if it is complete.
check_existing_set() {
    local file present="" missing=""
    for file in $files; do
        if [ -e "$out/$file" ]; then present="$present $file"; else missing="$missing $file"; fi
    done
    if [ -z "$present" ] || [ $force = yes ]; then return 0; fi
    if [ $if_missing = no ]; then
        fail "$out already contains$present; replace the whole set with --force, or choose another directory with --out"
    elif [ -n "$missing" ]; then
        fail "$out contains$present, but not$missing; make a complete set with --force"
    elif ! openssl x509 -in "$out/client.crt" -noout -checkend 0 >/dev/null; then
        fail "the certificates in $out have expired; replace them with --force"
    fi
    echo "$out already contains a complete set; nothing changed"
    exit 0
}

make_key() {
    case $key_type in
    rsa*) run_openssl genpkey -algorithm RSA -pkeyopt "rsa_keygen_bits:${key_type#rsa}" -out "$1" ;;
    p256)
        run_openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -pkeyopt ec_param_enc:named_curve \
            -out "$1"
        ;;
    p384)
        run_openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -pkeyopt ec_param_enc:named_curve \
            -out "$1"
        ;;
    ed25519) run_openssl genpkey -algorithm ED25519 -out "$1" ;;
    esac
}

# Writes one section per kind of certificate. Without extensions, openssl would issue X.509 version 1 certificates.
write_extensions() {
    # Only RSA keys can encrypt, for the RSA key exchange of TLS 1.2.
    local leaf_usage=digitalSignature
    case $key_type in rsa*) leaf_usage=digitalSignature,keyEncipherment ;; esac
    cat >"$work/openssl.cnf" <<END
[req]
distinguished_name = name
prompt = no
[name]
O = mongate development
[ca_certificate]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,$leaf_usage
# clientAuth too: mongod shows this certificate to the other members of its replica set.
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
# Both, as in the certificates of a service mesh: a workload is a client and a server.
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:$spiffe_id
[crl]
database = $work/index.txt
crlnumber = $work/crlnumber
default_md = sha256
[crl_extensions]
authorityKeyIdentifier = keyid
END
}

# make_ca FILE CN -> FILE.key and FILE.pem
make_ca() {
    make_key "$work/$1.key"
    run_openssl req -x509 -new -key "$work/$1.key" -out "$work/$1.pem" -days $ca_days \
        -subj "/O=mongate development/CN=$2" -config "$work/openssl.cnf" -extensions ca_certificate
}

# make_crl CA FILE -> an empty revocation list in FILE
make_crl() {
    : >"$work/index.txt"
    echo 01 >"$work/crlnumber"
    run_openssl ca -gencrl -config "$work/openssl.cnf" -name crl -crlexts crl_extensions -crldays "$days" \
        -cert "$work/$1.pem" -keyfile "$work/$1.key" -out "$work/$2"
}

# make_leaf CA FILE SECTION OU CN -> FILE.key, FILE.crt and both in FILE.pem
make_leaf() {
    local ca=$work/$1 base=$work/$2
    make_key "$base.key"
    # Servers and clients differ in OU: mongod treats a client with its own O, OU and DC as a cluster member.
    run_openssl req -new -key "$base.key" -out "$base.csr" -config "$work/openssl.cnf" \
        -subj "/O=mongate development/OU=$4/CN=$5"
    run_openssl x509 -req -in "$base.csr" -out "$base.crt" -days "$days" -CA "$ca.pem" -CAkey "$ca.key" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/openssl.cnf" -extensions "$3"
    run_openssl verify -CAfile "$ca.pem" "$base.crt"
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
Made in $out ($key_type keys; all except the CAs expire ${expiry#notAfter=}):
  ca.pem  ca.key  crl.pem  server.pem  client.pem  client.crt  client.key  spiffe-client.pem
  mesh-ca.pem  mesh-ca.key  mesh-crl.pem  mesh-client.pem  gateway.pem  gateway.key
Server names: $names
Start a mongod that requires client certificates, on the port that config.toml expects:
  mkdir -p /tmp/mongate-db
  mongod --port 27018 --dbpath /tmp/mongate-db --tlsMode requireTLS \\
      --tlsCertificateKeyFile '$out/server.pem' --tlsCAFile '$out/ca.pem'
END
}

read_options "$@"
check_options
command -v openssl >/dev/null || fail "openssl is not on the PATH; install it (Debian: apt-get install openssl)"
check_existing_set

# New files are readable by the owner only. put_in_place later sets the mode of the public files to 0644.
umask 077
mkdir -p "$out" || fail "cannot create $out; choose another directory with --out"
# Inside $out, so that the final moves stay on one file system and cannot fail half-way because the disk is full.
work=$(mktemp -d "$out/.new.XXXXXX") || fail "cannot write into $out; choose another directory with --out"
trap 'rm -rf "$work"' EXIT
write_extensions
make_ca ca "mongate development CA"
make_leaf ca server server servers mongod
make_leaf ca client client clients client
make_leaf ca spiffe-client spiffe clients spiffe-client
make_crl ca crl.pem
make_ca mesh-ca "mongate development mesh CA"
make_leaf mesh-ca gateway gateway gateways mongate
make_leaf mesh-ca mesh-client workload workloads orders
make_crl mesh-ca mesh-crl.pem
put_in_place
report
