"""Accepts TLS connections on a port, and gives what they carry to another port: CERTIFICATE PORT OTHER-PORT."""

import asyncio
import ssl
import sys

CERTIFICATE, PORT, OTHER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    there, to_there = await asyncio.open_connection("127.0.0.1", OTHER)
    await asyncio.gather(copy(reader, to_there), copy(there, writer))


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, ssl=context)
    await server.serve_forever()


asyncio.run(main())
