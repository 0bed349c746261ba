#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Looks whether a Service of type LoadBalancer works, step by step, from Tandem's Pods to an answer over each family.
#
#   sh validate.sh SERVICE [NAMESPACE [SCHEME]]        SCHEME is http (the default) or https
#
# It needs kubectl and curl, and changes nothing. Run it on a machine that reaches the addresses, such as one of the same LAN. It ends with
# the number of steps that failed.
set -u
service=${1:?name a Service: sh validate.sh SERVICE [NAMESPACE [SCHEME]]}
namespace=${2:-default}
scheme=${3:-http}
tandem=${TANDEM_NAMESPACE:-tandem-system}
timeout=${TIMEOUT:-30s}   # of each wait
failed=0

# check runs a command, and says what it shows. What the command prints is of interest only where it fails.
check() {
	what=$1
	shift
	if output=$("$@" 2>&1); then
		echo "ok      $what"
	else
		echo "FAILED  $what"
		echo "$output" | sed 's/^/          /'
		failed=$((failed + 1))
	fi
}

# in_service prints a part of the Service.
in_service() {
	kubectl --namespace "$namespace" get service "$service" --output "jsonpath=$1"
}

# is_true looks for a condition of the Service. Where the condition is not True, its message says why.
is_true() {
	kubectl --namespace "$namespace" wait --for="condition=$1" "service/$service" --timeout="$timeout" && return
	in_service "{.status.conditions[?(@.type==\"$1\")].message}"
	return 1
}

# sessions_are_up looks for BGP sessions that are not established.
sessions_are_up() {
	down=$(kubectl get speakerstatuses.tandem-lb.io \
		--output 'jsonpath={range .items[*]}{.metadata.name}{": "}{.status.bgpSessions[?(@.state!="Established")].peer}{"\n"}{end}') || return
	! echo "$down" | grep ': .'
}

# rolled_out waits until all Pods of a Deployment or DaemonSet are there.
rolled_out() {
	kubectl --namespace "$tandem" rollout status "$1" --timeout="$timeout"
}

# in_speaker prints a part of the DaemonSet of the speakers.
in_speaker() {
	kubectl --namespace "$tandem" get daemonset tandem-speaker --output "jsonpath=$1"
}

# speakers_run waits until a speaker runs on every node. Of a DaemonSet with the update strategy OnDelete, `kubectl rollout status` refuses to say
# anything: there each node has a speaker, of this version or of the one before.
speakers_run() {
	[ "$(in_speaker '{.spec.updateStrategy.type}' 2>/dev/null)" = OnDelete ] || { rolled_out daemonset/tandem-speaker; return; }
	available=$(in_speaker '{.status.numberAvailable}') && wanted=$(in_speaker '{.status.desiredNumberScheduled}') || return
	echo "${available:-0} of $wanted speakers are available"
	[ "$available" = "$wanted" ]
}

check "the controller manager runs" rolled_out deployment/tandem-cloud-controller-manager
check "a speaker runs on every node" speakers_run
check "every speaker is ready" kubectl wait --for=condition=Ready speakerstatuses.tandem-lb.io --all --timeout="$timeout"
check "every BGP session is established" sessions_are_up
check "$namespace/$service has an address of each family that it requires" is_true tandem-lb.io/Allocated
check "its addresses are announced" is_true tandem-lb.io/Announced

port=$(in_service '{.spec.ports[0].port}')
for address in $(in_service '{.status.loadBalancer.ingress[*].ip}'); do
	case $address in
	*:*) url="$scheme://[$address]:$port/" ;;
	*) url="$scheme://$address:$port/" ;;
	esac
	check "$url answers" curl --silent --show-error --insecure --output /dev/null --max-time 5 "$url"
done

[ "$failed" = 0 ] || echo "$failed failed; docs/troubleshooting.md goes on from here"
exit "$failed"
