# MikroTik RouterOS 7; not run. Nodes are 198.51.100.0/24, the pools 203.0.113.0/24 and 2001:db8:113::/112.
/routing filter rule
add chain=from-nodes rule="if (dst in 203.0.113.0/24 && dst-len==32) { accept }"
add chain=from-nodes rule="if (dst in 2001:db8:113::/112 && dst-len==128) { accept }"
add chain=from-nodes rule="reject"
add chain=to-nodes rule="reject"
/routing bgp connection
add name=nodes as=64513 remote.as=64512 remote.address=198.51.100.0/24 local.role=ebgp connect=no listen=yes \
    tcp-md5-key=change-me address-families=ip,ipv6 input.filter=from-nodes input.limit-process-routes-ipv4=1000 \
    input.limit-process-routes-ipv6=1000 output.filter-chain=to-nodes
