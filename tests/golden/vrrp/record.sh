#!/bin/bash
# Records what keepalived sends; see README.md. Needs root, iproute2, keepalived and tcpdump.
# SIGNING_KEEPALIVED names a keepalived of version 2.4.2 or later, for the signed packets; without it they stay as they are.
set -euo pipefail
cd "$(dirname "$0")"
run=$$
work=$(mktemp -d -t xvip-golden.XXXXXX)
trap 'for ns in $(ip netns list | cut -d" " -f1 | grep -e "-$run\$"); do ip netns pids "$ns" | xargs -r kill -9; ip netns del "$ns"; done; rm -rf "$work"' EXIT

# record NAME SECONDS: keepalived with the vrrp_instance lines on stdin, for SECONDS and then its farewell.
record() {
    local name=$1 seconds=$2 a=a-$1-$run b=b-$1-$run program=keepalived
    case $name in hmac-*) program=$SIGNING_KEEPALIVED ;; esac
    { echo 'global_defs {'; echo '  vrrp_skip_check_adv_addr'; echo '}'; echo 'vrrp_instance main {'; cat; echo '}'; } >"$work/$name.conf"
    ip netns add "$a"
    ip netns add "$b"
    ip link add eth0 netns "$a" type veth peer name eth0 netns "$b"
    ip -n "$a" link set lo up
    # The link-local address follows from the MAC address, and is usable at once.
    for side in "$a" "$b"; do ip netns exec "$side" sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.addr_gen_mode=0; done
    ip -n "$a" link set eth0 up address 02:00:00:00:00:02
    ip -n "$b" link set eth0 up address 02:00:00:00:00:03
    ip -n "$a" addr add 172.16.0.2/24 dev eth0
    ip -n "$b" addr add 172.16.0.3/24 dev eth0
    ip -n "$a" addr add fd00::2/64 dev eth0 nodad
    ip -n "$b" addr add fd00::3/64 dev eth0 nodad
    ip netns exec "$a" tcpdump -Z root -q -U -n -i eth0 -w "$work/$name.pcap" 'proto 112 or arp or icmp6' 2>/dev/null &
    local tcpdump=$!
    sleep 0.5
    ip netns exec "$a" "$program" -n -l -f "$work/$name.conf" -p "$work/$name.pid" -r "$work/$name.vrrp.pid" \
        -c "$work/$name.check.pid" --vrrp >"$work/$name.log" 2>&1 &
    local keepalived=$!
    sleep "$seconds"
    kill "$keepalived" || { cat "$work/$name.log"; exit 1; }
    wait "$keepalived" || true
    sleep 0.3
    kill "$tcpdump"
    wait "$tcpdump" || true
}

# hex FILE FILTER [x]: one packet a line, from a filtered capture; with x, the link-layer header too.
hex() {
    tcpdump -Z root -n -r "$1" "-x${3:-}" "$2" 2>/dev/null |
        awk '/^[0-9]/ { if (line) print line; line = "" } /^\t0x/ { sub(/^\t0x[0-9a-f]+:/, ""); gsub(/ /, ""); line = line $0 } END { if (line) print line }'
}

# The first advertisement of each kind, and the farewell: IP header and VRRP message.
keep() {
    hex "$work/$1.pcap" 'proto 112' >"$work/$1.adverts"
    [ -s "$work/$1.adverts" ] || { cat "$work/$1.log"; exit 1; }
    sed -n 1p "$work/$1.adverts" >"$1.hex"
    sed -n '$p' "$work/$1.adverts" >"$1-priority-0.hex"
}

common='interface eth0
  state BACKUP
  virtual_router_id 60
  virtual_ipaddress {
    172.16.0.10/24
  }'
common6='interface eth0
  state BACKUP
  virtual_router_id 60
  virtual_ipaddress {
    fd00::10/64
  }'
unicast='unicast_src_ip 172.16.0.2
  unicast_peer {
    172.16.0.3
  }'
unicast6='unicast_src_ip fd00::2
  unicast_peer {
    fd00::3
  }'
signed='auth_hmac {
    key 7 hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
    active_key 7
    mode enforce
  }'

names='v2-unicast v2-multicast-pass v3-unicast v3-multicast v3-ipv6-unicast v3-ipv6-multicast'
record v2-unicast 10 <<<"version 2
  priority 102
  advert_int 1
  $unicast
  $common" &
record v2-multicast-pass 6 <<<"version 2
  priority 101
  advert_int 1
  authentication {
    auth_type PASS
    auth_pass 1111
  }
  $common" &
record v3-unicast 3 <<<"version 3
  priority 150
  advert_int 0.2
  $unicast
  $common" &
record v3-multicast 3 <<<"version 3
  priority 100
  advert_int 0.2
  ${common/172.16.0.10\/24/172.16.0.10/24
    172.16.0.11/24}" &
record v3-ipv6-unicast 4 <<<"version 3
  priority 150
  advert_int 0.2
  $unicast6
  $common6" &
# The first address of an IPv6 virtual router should be link-local (RFC 9568 §5.2.9); keepalived does not insist.
record v3-ipv6-multicast 4 <<<"version 3
  priority 100
  advert_int 0.2
  ${common6/fd00::10\/64/fe80::10/64
    fd00::10/64}" &
wait
if [ -n "${SIGNING_KEEPALIVED:-}" ]; then
    names="$names hmac-v2-unicast hmac-v2-multicast hmac-v3-unicast hmac-v3-multicast hmac-v3-ipv6-unicast hmac-v3-ipv6-multicast"
    for version in 2 3; do
        record "hmac-v$version-unicast" 6 <<<"version $version
  priority 150
  advert_int 1
  $unicast
  $signed
  $common" &
        record "hmac-v$version-multicast" 6 <<<"version $version
  priority 100
  advert_int 1
  $signed
  $common" &
    done
    record hmac-v3-ipv6-unicast 6 <<<"version 3
  priority 150
  advert_int 1
  $unicast6
  $signed
  $common6" &
    record hmac-v3-ipv6-multicast 6 <<<"version 3
  priority 100
  advert_int 1
  $signed
  $common6" &
    wait
fi
for name in $names; do keep "$name"; done
# Whole frames, with their times: the gratuitous ARP of one take-over.
hex "$work/v2-unicast.pcap" 'arp and arp[14:4] = 0xac10000a' x | sort -u >garp.hex
# Neighbour advertisements for the VIP, ICMPv6 type 136.
hex "$work/v3-ipv6-unicast.pcap" 'icmp6 and ip6[40] = 136 and src host fd00::10' x | sort -u >na.hex
[ -z "${SHOW:-}" ] || { tail -n 30 "$work"/*.log; tcpdump -Z root -n -r "$work/v2-unicast.pcap" -tt -e -v 2>/dev/null; }
