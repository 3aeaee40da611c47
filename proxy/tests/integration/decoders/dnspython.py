"""Reads messages from standard input, each behind its length in two octets, and says of each in a line what it is."""

import sys

import dns.message
import dns.name


def reading(wire):
    try:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except Exception as error:  # dnspython knows many words for it
        return f"malformed {type(error).__name__}"
    edns = "-"
    if message.edns >= 0:
        # The flags hold the version, and the upper bits of the response code.
        edns = f"{message.ednsflags >> 16 & 0xff},{message.ednsflags >> 15 & 1},{message.payload}"
    questions = "".join(
        f" {asked.name.canonicalize().to_wire().hex()}{asked.rdtype:04x}{asked.rdclass:04x}" for asked in message.question)
    return f"read {message.rcode():d} {len(message.answer)} {edns}{questions}"


read = sys.stdin.buffer.read
while head := read(2):
    print(reading(read(int.from_bytes(head, "big"))))
