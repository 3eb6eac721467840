#!/bin/bash
# kafka.sh fetch | run DIR PORT [PROXY | secure]: one real Apache Kafka node (KRaft) for tests.
#   fetch      the jars of kafka.xml, by Maven, into the cache folder
#   run        the broker on loopback in the foreground until standard input ends; state in DIR,
#              log in DIR/out.log, the JVM's pid in DIR/pid. PORT + 1 is the controller's. A second
#              run over the same DIR goes on where the first one ended, however that was. With
#              PROXY, who comes by PORT + 2 is told to go on at that port: something there must
#              lead to PORT + 2. With 'secure', PORT + 2 demands SASL (PLAIN or SCRAM-SHA-256, user
#              kaplan, password kaplan-secret), and PORT + 3 TLS, with a certificate of the
#              authority DIR/tls/ca.pem.
# Needs maven and a JDK 17 or later, for 'secure' openssl. KAFKA_LOG_LEVEL=info shows more.
# exit: 0 done, 1 the broker did not start or ended by itself, 2 usage, 77 no jars can be had here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
jars=${XDG_CACHE_HOME:-$HOME/.cache}/kaplan/kafka/$(cksum <"$here/kafka.xml" | cut -d' ' -f1)

fetch() {
  [ -f "$jars/ready" ] && return
  command -v mvn >/dev/null && command -v java >/dev/null || {
    echo 'kafka.sh: needs maven and java' >&2
    exit 77
  }
  mkdir -p "$jars"
  # Several may come at once: one fetches, the others wait.
  exec 9>"$jars/lock"
  flock 9
  [ -f "$jars/ready" ] && return
  mvn -B -q -f "$here/kafka.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$jars" </dev/null >&2 || {
    echo 'kafka.sh: no Maven repository gave the jars' >&2
    exit 77
  }
  touch "$jars/ready"
}

# An authority of its own, and a certificate that it gives the broker.
certify() {
  [ -f "$dir/tls/broker.pem" ] && return
  mkdir -p "$dir/tls"
  (
    cd "$dir/tls"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=An authority for tests' \
      -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout broker.key -out broker.csr
    openssl x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
      -extfile <(echo subjectAltName=IP:127.0.0.1,DNS:localhost) -out broker.crt
    cat broker.key broker.crt >broker.pem
  ) >"$dir/tls.log" 2>&1
}

configure() {
  local more='' advertised='' map='' at=//127.0.0.1
  if [ "$with" = secure ]; then
    certify
    more=,SASL:$at:$((port + 2)),TLS:$at:$((port + 3)) map=,SASL:SASL_PLAINTEXT,TLS:SSL
    advertised=$more
  elif [ -n "$with" ]; then
    more=,PROXIED:$at:$((port + 2)) advertised=,PROXIED:$at:$with map=,PROXIED:PLAINTEXT
  fi
  cat >"$dir/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))$more
advertised.listeners=PLAINTEXT://127.0.0.1:$port$advertised
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$map
log.dirs=$dir/logs
num.partitions=3
num.network.threads=2
num.io.threads=2
offsets.topic.num.partitions=2
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=16777216
log.segment.delete.delay.ms=1000
# A broker that was killed may come back when its old registration has run out.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
P
  [ "$with" = secure ] || return 0
  local login=org.apache.kafka.common.security
  cat >>"$dir/server.properties" <<P
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl.plain.sasl.jaas.config=$login.plain.PlainLoginModule required \\
  user_kaplan="$secret";
listener.name.sasl.scram-sha-256.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location=$dir/tls/broker.pem
P
}

case "${1:-}" in
fetch) fetch; exit 0 ;;
run) [ $# -eq 3 ] || [ $# -eq 4 ] || usage ;;
*) usage ;;
esac
port=$3 with=${4:-} secret=kaplan-secret
mkdir -p "$2"
dir=$(cd "$2" && pwd)
fetch
configure
jvm=(java -Xms128m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true
  "-Dorg.slf4j.simpleLogger.defaultLogLevel=${KAFKA_LOG_LEVEL:-warn}"
  -Dorg.slf4j.simpleLogger.showDateTime=true -cp "$jars/*")
# The id only has to be a UUID in Kafka's spelling; a JVM to draw one would cost seconds.
[ -f "$dir/logs/meta.properties" ] || "${jvm[@]}" kafka.tools.StorageTool format \
  --cluster-id 'kaplan-tests-kaplan-tq' --config "$dir/server.properties" \
  --add-scram "SCRAM-SHA-256=[name=kaplan,password=$secret]" >"$dir/format.log" 2>&1
"${jvm[@]}" kafka.Kafka "$dir/server.properties" >>"$dir/out.log" 2>&1 </dev/null &
broker=$!
echo "$broker" >"$dir/pid"
stop() {
  kill "$broker" 2>/dev/null || true
  for _ in $(seq 50); do kill -0 "$broker" 2>/dev/null || return 0; sleep .1; done
  kill -9 "$broker" 2>/dev/null || true
}
trap stop EXIT
# The port opens before requests are answered; the client that comes first waits the rest.
for _ in $(seq 600); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo ready
    cat >/dev/null
    exit 0
  fi
  kill -0 "$broker" 2>/dev/null || break
  sleep .1
done
tail -20 "$dir/out.log" "$dir/format.log" >&2
exit 1
