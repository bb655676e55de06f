"""Which routes does an app have, and what stands before each?"""
