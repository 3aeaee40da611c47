// parts takes out of an installation's manifests what `istioctl kube-inject` is to be given: the injector's templates, its values, and
// the configuration of the mesh.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

var wanted = []struct{ configMap, key, file string }{
	{"istio-sidecar-injector", "config", "templates.yaml"},
	{"istio-sidecar-injector", "values", "values.json"},
	{"istio", "mesh", "mesh.yaml"},
}

func run(folder string) error {
	manifests, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		document := corev1.ConfigMap{}
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil || document.Kind != "ConfigMap" {
			continue // of another kind, which may not be readable as this one
		}
		for _, part := range wanted {
			if document.Name != part.configMap {
				continue
			}
			if err := os.WriteFile(filepath.Join(folder, part.file), []byte(document.Data[part.key]), 0o600); err != nil {
				return err
			}
		}
	}
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}
