// Verify a received webhook (Standard Webhooks, v1 and v1a), with the standard library.
//
//	WEBHOOK_SECRET=whsec_... go run ./verify ID TIMESTAMP SIGNATURES < body      (exit code 1 when it is not genuine)
package main

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tolerance is the largest difference between a webhook's time and this machine's.
const Tolerance = 5 * time.Minute

// Verify returns nil if the body is genuine and fresh. Secrets are whsec_... (v1) or whpk_... (v1a), the old and the
// new one during a rollover. Body holds the raw bytes as received.
func Verify(secrets []string, header http.Header, body []byte, now time.Time) error {
	id, timestamp := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" {
		return errors.New("a header is missing or malformed")
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > Tolerance || age < -Tolerance {
		return errors.New("too old, or from the future: see this machine's clock")
	}
	signed := append([]byte(id+"."+timestamp+"."), body...)
	for _, entry := range strings.Split(header.Get("Webhook-Signature"), " ") {
		version, text, _ := strings.Cut(entry, ",")
		signature, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			continue
		}
		for _, secret := range secrets {
			if matches(secret, version, signature, signed) {
				return nil
			}
		}
	}
	return errors.New("no signature matches")
}

func matches(secret, version string, signature, signed []byte) bool {
	prefix, text, _ := strings.Cut(secret, "_")
	key, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil || len(key) == 0:
		return false
	case version == "v1" && prefix == "whsec":
		mac := hmac.New(sha256.New, key)
		mac.Write(signed)
		return hmac.Equal(mac.Sum(nil), signature)
	case version == "v1a" && prefix == "whpk":
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, signed, signature)
	}
	return false
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "verify ID TIMESTAMP SIGNATURES < body")
		os.Exit(2)
	}
	header := http.Header{}
	for number, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		header.Set(name, os.Args[number+1])
	}
	now := time.Now()
	if seconds, err := strconv.ParseInt(os.Getenv("NOW"), 10, 64); err == nil {
		now = time.Unix(seconds, 0)
	}
	body, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = Verify(strings.Fields(os.Getenv("WEBHOOK_SECRET")), header, body, now)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("genuine")
}
