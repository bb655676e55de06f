"""Does each request end once, rightly, whatever serves it?"""
