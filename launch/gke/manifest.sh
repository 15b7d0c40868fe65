# shellcheck shell=bash
# shellcheck disable=SC2154  # options come from gke.sh
# The JobSet: one Job a slice, one pod a host. Sourced by gke.sh. Fields: api/jobset/v1alpha2 of kubernetes-sigs/jobset.

# Exit codes after which starting again does not help: as `rvm train` and pod.sh end; 126 to 128: the image is not ours.
final_codes='2, 65, 76, 77, 126, 127, 128, 130'
most_restarts=1000  # pod.sh bounds starts by progress; JobSet itself can only count

text() {  # a word as a JSON string, which YAML reads too
    local word=$1
    word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//$'\n'/\\n} word=${word//$'\t'/\\t} word=${word//$'\r'/\\r}
    printf '"%s"' "$word"
}

kept() { text "${1//\$/\$\$}"; }  # a string in which Kubernetes would expand $(NAME): $$ stands for $

variable() { printf '              - {name: %s, value: %s}\n' "$1" "$(kept "$2")"; }

variables() {
    local pair
    variable RVM_LAUNCH_NAME "$name"
    variable RVM_LAUNCH_HOSTS "$((hosts * slices))"
    variable RVM_LAUNCH_ID "$1"
    variable RVM_LAUNCH_RETRIES "$retries"
    printf '              - {name: RVM_LAUNCH_SLICE, valueFrom: {fieldRef: {fieldPath: "%s"}}}\n' \
        "metadata.annotations['jobset.sigs.k8s.io/job-index']"
    [[ -z $preparation ]] || variable RVM_LAUNCH_PREPARE "$preparation"
    [[ -z $libtpu_flags ]] || variable LIBTPU_INIT_ARGS "$libtpu_flags"  # an empty value would be a flag without a name
    for pair in ${environment[@]+"${environment[@]}"}; do variable "${pair%%=*}" "${pair#*=}"; done
}

manifest() {  # manifest ID: the JobSet of one `launch/gke.sh train`; pod.sh counts the starts of one ID
    local word bucket
    cat << END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool  # a slice is a node pool
    rvm-jax/options: "$fingerprint"
spec:
  failurePolicy:
    maxRestarts: $most_restarts
    rules:
    - {name: final, action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}
  network: {enableDNSHostnames: true}  # pod.sh names the first host by it
  replicatedJobs:
  - name: slice
    replicas: $slices
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        completionMode: Indexed
        backoffLimit: 0  # a slice cannot run without one of its hosts: all start again together
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [$final_codes]}
        template:
          metadata:
            annotations:
              rvm-jax/name: $name
END
    [[ -z $data ]] || echo '              gke-gcsfuse/volumes: "true"'
    cat << END
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $((grace + 60))
END
    [[ -z $service_account ]] || echo "            serviceAccountName: $service_account"
    if [[ -n $host_network ]]; then
        printf '            %s\n' 'hostNetwork: true' 'dnsPolicy: ClusterFirstWithHostNet'
    fi
    cat << END
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $label
              cloud.google.com/gke-tpu-topology: $topology
END
    if [[ -n $spot ]]; then
        cat << END
              cloud.google.com/gke-spot: "true"
            tolerations:
            - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
END
    fi
    cat << END
            containers:
            - name: train
              image: $(text "$image")
              imagePullPolicy: Always
              command: [bash, /opt/rvm_jax/launch/gke/pod.sh]
              args:
END
    for word in "${training[@]}"; do printf '              - %s\n' "$(kept "$word")"; done
    echo '              env:'
    variables "$1"
    cat << END
              ports:
              - containerPort: 8471  # the TPU hosts of a slice talk here
              securityContext: {privileged: true}
              terminationMessagePolicy: FallbackToLogsOnError
              resources: {limits: {google.com/tpu: $chips_per_host}}
              volumeMounts:
              - {name: shm, mountPath: /dev/shm}
END
    [[ -z $data ]] || echo '              - {name: data, mountPath: /data, readOnly: true}'
    cat << END
            volumes:
            - {name: shm, emptyDir: {medium: Memory}}  # frames from worker processes; the usual 64 MB are too few
END
    [[ -n $data ]] || return 0
    bucket=${data#gs://}
    word=implicit-dirs
    [[ $bucket != */?* ]] || word+=,only-dir=${bucket#*/}
    cat << END
            - name: data
              csi:
                driver: gcsfuse.csi.storage.gke.io
                readOnly: true
                volumeAttributes: {bucketName: $(text "${bucket%%/*}"), mountOptions: $(text "${word%/}")}
END
}
