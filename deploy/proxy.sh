#!/bin/sh
# Starts nginx as the environment says; with `check`, only has it check its configuration.
set -eu

here=$(dirname "$0")
run=${PROXY_RUN:-/tmp}
tls=${PROXY_TLS:-/tls}
listen=${PROXY_LISTEN:-8080}
web=${PROXY_WEB:-web:8050}
health=${PROXY_HEALTH:-127.0.0.1:8081}
header=${HEADSCOPE_TRUSTED_HEADER:-}
lab=${HEADSCOPE_LAB_PROXY:-}

fail() {
    echo "proxy: $1" >&2
    exit 1
}

# The certificate, once it is there. A link leads nowhere from here, and a folder of root's hides what is in it: neither
# is taken for "no certificate", by which passwords would cross the network as they are typed.
mine="user $(id -u) may not read it; on the host, run sudo chown $(id -u):$(id -g) on it, then docker compose restart proxy"
[ ! -d "$tls" ] || [ -x "$tls" ] || fail "$tls, the folder of the certificate: $mine"
if [ -e "$tls/cert.pem" ] || [ -e "$tls/key.pem" ] || [ -L "$tls/cert.pem" ] || [ -L "$tls/key.pem" ]; then
    for file in cert.pem key.pem; do
        [ -e "$tls/$file" ] || fail "$tls/$file is not there, or a link; https needs cert.pem and key.pem themselves"
        [ -r "$tls/$file" ] || fail "$tls/$file: $mine"
    done
    cat >"$run/listen.conf" <<END
listen $listen ssl http2;
ssl_certificate $tls/cert.pem;
ssl_certificate_key $tls/key.pem;
ssl_protocols TLSv1.2 TLSv1.3;
ssl_session_cache shared:tls:5m;
ssl_session_tickets off;
END
else
    echo "listen $listen;" >"$run/listen.conf"
fi

# The lab's own proxy: by its address it is known, and only then believed.
case $lab in *[!0-9A-Fa-f.:/\ ,]*) fail "HEADSCOPE_LAB_PROXY is '$lab'; give addresses, as 10.1.2.3 or 10.1.2.0/24" ;; esac
case $header in *[!A-Za-z0-9-]*) fail "HEADSCOPE_TRUSTED_HEADER is '$header'; give a name, as X-Remote-User" ;; esac
[ -z "$header" ] || [ -n "$lab" ] ||
    fail "HEADSCOPE_TRUSTED_HEADER is set, so HEADSCOPE_LAB_PROXY must say which address may send it"
: >"$run/lab-headers.conf"
{
    echo 'geo $realip_remote_addr $from_lab {'
    echo '    default 0;'
    for address in $(echo "$lab" | tr ',' ' '); do echo "    $address 1;"; done
    echo '}'
    for address in $(echo "$lab" | tr ',' ' '); do echo "set_real_ip_from $address;"; done
    echo 'real_ip_header X-Forwarded-For;'
    echo 'map "$from_lab $http_x_forwarded_proto" $lab_scheme {'
    echo '    default $scheme;'
    echo '    "1 https" https;'
    echo '}'
    if [ -n "$header" ]; then
        sent=http_$(echo "$header" | tr 'A-Z-' 'a-z_')
        echo 'map $from_lab $lab_user {'
        echo '    default "";'
        echo "    1 \$$sent;"
        echo '}'
        echo "proxy_set_header $header \$lab_user;" >"$run/lab-headers.conf"
    fi
} >"$run/lab.conf"

resolver=$(sed -n 's/^nameserver //p' /etc/resolv.conf | head -n 1)
case $resolver in *:*) resolver="[$resolver]" ;; esac
sed -e "s|@RUN@|$run|g" -e "s|@WEB@|$web|g" -e "s|@HEALTH@|$health|g" \
    -e "s|@RESOLVER@|${resolver:-127.0.0.11}|g" \
    "$here/nginx.conf" >"$run/nginx.conf"

if [ "${1:-}" = check ]; then
    exec nginx -t -q -e stderr -c "$run/nginx.conf"
fi
exec nginx -e stderr -c "$run/nginx.conf"
