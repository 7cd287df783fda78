"""Boards: what each carries, bitstreams for it from open tools, and how it is flashed.

Only building needs Amaranth and the tools of the extra ``boards``; listing does not.
"""
