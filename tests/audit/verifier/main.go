// A second verifier, written from docs/reference/audit-format.md alone, with nothing but Go's standard library.
// verifier [PUBLIC-KEY.pem] < records.jsonl: prints OK, or the line and reason of the first break.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
)

type record struct {
	Instance     string `json:"instance"`
	Seq          int64  `json:"seq"`
	Prev         string `json:"prev"`
	Event        string `json:"event"`
	Ts           string `json:"ts"`
	ThroughSeq   int64  `json:"through_seq"`
	ThroughHash  string `json:"through_hash"`
	EveryRecords int64  `json:"every_records"`
	Signature    string `json:"signature"`
}

type chain struct {
	first, seq, promised, unsigned int64
	firstPrev, tip                 string
	running, covered               bool
}

func fail(line int, reason string) {
	fmt.Printf("BROKEN %d: %s\n", line, reason)
	os.Exit(1)
}

func main() {
	var key ed25519.PublicKey
	if len(os.Args) > 1 {
		text, _ := os.ReadFile(os.Args[1])
		block, _ := pem.Decode(text)
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			fail(0, err.Error())
		}
		key = parsed.(ed25519.PublicKey)
	}
	chains := map[string]*chain{}
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(make([]byte, 1<<20), 1<<23)
	line := 0
	for input.Scan() {
		line++
		var r record
		if err := json.Unmarshal(input.Bytes(), &r); err != nil || r.Seq < 1 || r.Instance == "" {
			fail(line, "not a record")
		}
		c := chains[r.Instance]
		if c == nil {
			if r.Seq == 1 && r.Prev != strings.Repeat("0", 64) {
				fail(line, "head")
			}
			c = &chain{first: r.Seq, seq: r.Seq - 1, firstPrev: r.Prev, tip: r.Prev, covered: r.Seq == 1}
			c.running = r.Seq != 1
			chains[r.Instance] = c
		}
		if r.Seq != c.seq+1 {
			fail(line, "seq")
		}
		if r.Prev != c.tip {
			fail(line, "prev")
		}
		if r.Event != "AUDIT_START" && !c.running {
			fail(line, "outside a run")
		}
		c.running = r.Event != "AUDIT_STOP"
		if r.Event == "AUDIT_TRUNCATED" &&
			(r.ThroughSeq >= c.first || (r.ThroughSeq == c.first-1 && r.ThroughHash == c.firstPrev)) {
			c.covered = true
		}
		signed := r.Event == "AUDIT_CHECKPOINT" || (r.Event == "AUDIT_STOP" && r.Signature != "")
		if key != nil && signed {
			signature, err := base64.RawURLEncoding.DecodeString(r.Signature)
			text := strings.Join([]string{"openbao-sidecar.audit.checkpoint.v1", r.Instance, fmt.Sprint(r.Seq), r.Prev,
				r.Event, r.Ts, fmt.Sprint(r.EveryRecords)}, "\n")
			if err != nil || !ed25519.Verify(key, []byte(text), signature) {
				fail(line, "signature")
			}
			c.promised, c.unsigned = r.EveryRecords, 0
		} else if r.Event != "AUDIT_START" {
			c.unsigned++
			if c.promised > 0 && c.unsigned > c.promised {
				fail(line, "promise")
			}
		}
		c.seq, c.tip = r.Seq, fmt.Sprintf("%x", sha256.Sum256(input.Bytes()))
	}
	for _, c := range chains {
		if !c.covered {
			fail(line, "missing head")
		}
		if key != nil && c.promised == 0 {
			fail(line, "nothing signed")
		}
	}
	fmt.Println("OK", line)
}
