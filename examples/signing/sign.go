// Register a signing key, sign with it, and take it back; AGENTZERO_SERVER, AGENTZERO_API_KEY.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

const keys = "/api/v1/signing-keys"

// A key is its identifier at the server and a way to sign with it.
type key struct {
	id   string
	sign func(base []byte) []byte
}

// addSignature puts the headers of RFC 9421 on a request.
func addSignature(request *http.Request, body []byte, k *key) {
	components := []string{"@method", "@authority", "@path"}
	values := []string{request.Method, request.URL.Host, request.URL.EscapedPath()}
	if request.URL.RawQuery != "" {
		components = append(components, "@query")
		values = append(values, "?"+request.URL.RawQuery)
	}
	if len(body) > 0 {
		sum := sha256.Sum256(body)
		digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
		request.Header.Set("Content-Digest", digest)
		components = append(components, "content-digest")
		values = append(values, digest)
	}
	random := make([]byte, 18)
	rand.Read(random)
	parameters := fmt.Sprintf(`("%s");created=%d;keyid="%s";nonce="%s"`,
		strings.Join(components, `" "`), time.Now().Unix(), k.id,
		base64.RawURLEncoding.EncodeToString(random))
	var base strings.Builder
	for i, component := range components {
		fmt.Fprintf(&base, "\"%s\": %s\n", component, values[i])
	}
	fmt.Fprintf(&base, "\"@signature-params\": %s", parameters)
	signature := base64.StdEncoding.EncodeToString(k.sign([]byte(base.String())))
	request.Header.Set("Signature-Input", "sig="+parameters)
	request.Header.Set("Signature", "sig=:"+signature+":")
}

// send gives the answer's JSON, and whether it was a success.
func send(method, path string, body map[string]string, k *key) (map[string]any, bool) {
	server := os.Getenv("AGENTZERO_SERVER")
	if server == "" {
		server = "http://127.0.0.1:8000"
	}
	var content []byte
	if body != nil {
		content, _ = json.Marshal(body)
	}
	request, err := http.NewRequest(method, server+path, bytes.NewReader(content))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("AGENTZERO_API_KEY"))
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if k != nil {
		addSignature(request, content, k)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		log.Fatal(err)
	}
	return answer, response.StatusCode < 300
}

func must(answer map[string]any, ok bool) map[string]any {
	if !ok {
		log.Fatalf("%v: %v", answer["code"], answer["detail"])
	}
	return answer
}

func main() {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	laptop := must(send("POST", keys, map[string]string{"name": "laptop", "algorithm": "ed25519",
		"public_key": base64.StdEncoding.EncodeToString(public)}, nil))
	unsigned, _ := send("DELETE", fmt.Sprintf("%s/%s", keys, laptop["signing_key_id"]), nil, nil)
	fmt.Println("unsigned:", unsigned["code"])

	byLaptop := &key{laptop["signing_key_id"].(string), func(base []byte) []byte {
		return ed25519.Sign(private, base)
	}}
	machine := must(send("POST", keys,
		map[string]string{"name": "machine", "algorithm": "hmac-sha256"}, byLaptop))
	fmt.Println("ed25519: registered", machine["name"])

	secret, _ := base64.StdEncoding.DecodeString(machine["secret"].(string))
	byMachine := &key{machine["signing_key_id"].(string), func(base []byte) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write(base)
		return mac.Sum(nil)
	}}
	for _, one := range []map[string]any{laptop, machine} {
		must(send("DELETE", fmt.Sprintf("%s/%s", keys, one["signing_key_id"]), nil, byMachine))
		fmt.Println("hmac-sha256: revoked", one["name"])
	}
}
